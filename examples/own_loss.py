"""A preference loss of your own: a hinge, which leaves a pair alone once its margin reaches 1 / beta nats."""

import torch


def hinge(chosen_P, rejected_P, ref_chosen_P, ref_rejected_P, beta):
    margin_P = (chosen_P - ref_chosen_P) - (rejected_P - ref_rejected_P)
    return torch.relu(1 - beta * margin_P)
