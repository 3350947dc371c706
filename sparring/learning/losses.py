"""Hidden states and log-probabilities come in, losses go out: pure tensor functions.

Shapes: N action tokens, D width of the model, V vocabulary, P preference pairs, K trajectories of one task.
Log-probabilities are in nats, and a side's is the *sum* over its action tokens unless it says otherwise.

Paper: arXiv 2511.22254, Eq. 5, 7 and 9; arXiv 2305.18290 (DPO), 2310.12036 (IPO), 2402.13228 (DPOP); 2402.03300 (GRPO),
2503.14476 (DAPO), 1707.06347 (PPO), 1506.02438 (GAE).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def nll(logprob_P: Tensor, num_tokens_P: Tensor, *, reduction: str = "mean") -> Tensor:
    """Compute −log π per side: summed over action tokens (`sum`), or divided by their number (`mean`).

    A side of 4 action tokens with log π = -6: 6.0 summed, 1.5 as a mean.

    Source: arXiv 2511.22254, Eq. 5, and the second term of Eq. 9, which is the sum.
    Deviates: `mean` is an option. It weighs the DPO term more: a sum over hundreds of tokens outweighs it.
    """
    return -logprob_P / num_tokens_P if reduction == "mean" else -logprob_P


def dpo_loss(chosen_P: Tensor, rejected_P: Tensor, ref_chosen_P: Tensor, ref_rejected_P: Tensor, beta: float) -> Tensor:
    """Compute −log σ(β [log π(c)/π_ref(c)] − β [log π(r)/π_ref(r)]) per pair.

    chosen -10, rejected -12, reference -11 and -11, β 0.1: the margin is (1) − (−1) = 2 nats, the loss
    −log σ(0.2) = 0.5981. Where policy and reference agree it is log 2 = 0.6931.

    Source: arXiv 2511.22254, Eq. 7; log-probabilities are sums, not means.
    """
    return -functional.logsigmoid(beta * ((chosen_P - ref_chosen_P) - (rejected_P - ref_rejected_P)))


def ipo_loss(chosen_P: Tensor, rejected_P: Tensor, ref_chosen_P: Tensor, ref_rejected_P: Tensor, beta: float) -> Tensor:
    """Compute (margin − 1 / (2β))² per pair, which asks for a margin of 1 / (2β) nats and no more.

    The margin of 2 nats above and β 0.1 want 5: the loss is (2 − 5)² = 9.

    Source: arXiv 2310.12036, Eq. 17, β for its τ. Its authors' figures come from log-probabilities divided by length.
    """
    return ((chosen_P - ref_chosen_P) - (rejected_P - ref_rejected_P) - 1 / (2 * beta)) ** 2


def dpop_loss(
    chosen_P: Tensor,
    rejected_P: Tensor,
    ref_chosen_P: Tensor,
    ref_rejected_P: Tensor,
    beta: float,
    penalty: float,
) -> Tensor:
    """Compute DPO with a penalty on chosen sides that grow less likely than under the reference.

    −log σ(β (margin − λ max(0, log π_ref(c) − log π(c)))). chosen -12, rejected -15, reference -11 and -11, β 0.1,
    λ 5: the margin is −1 + 4 = 3, the penalty 5 · 1, the loss −log σ(−0.2) = 0.7981.

    Source: arXiv 2402.13228, Eq. 3.
    """
    margin = (chosen_P - ref_chosen_P) - (rejected_P - ref_rejected_P)
    return -functional.logsigmoid(beta * (margin - penalty * (ref_chosen_P - chosen_P).clamp(min=0)))


def mix(preference_P: Tensor, nll_P: Tensor, dpo_weight_P: Tensor, sft_weight_P: Tensor) -> Tensor:
    """Add the two terms per pair: λ_DPO · preference + λ_SFT · −log π(chosen).

    An expert pair (weights .5, .5) with losses 0.6 and 1.5 makes 1.05; a failure pair (1, 0) makes 0.6.

    Source: arXiv 2511.22254, Eq. 9.
    """
    return dpo_weight_P * preference_P + sft_weight_P * nll_P


def kl_estimate(logprobs_N: Tensor, ref_logprobs_N: Tensor) -> Tensor:
    """Estimate KL(π_ref ‖ π) per token as r − 1 − log r with r = π / π_ref: never negative.

    log π = -1, log π_ref = -1.5: r = e^0.5 = 1.6487 and the estimate is 0.1487. Unbiased on tokens sampled from the
    reference at temperature 1; on other tokens a measure of how far the policy has moved there.

    Source: J. Schulman, "Approximating KL divergence" (2020), k3.
    """
    log_ratio = logprobs_N - ref_logprobs_N
    return log_ratio.exp() - 1 - log_ratio


def group_advantages(rewards_K: Tensor, *, is_scaled: bool = True, epsilon: float = 1e-4) -> Tensor:
    """Compare each reward of a group with the group's mean, in units of its standard deviation.

    Rewards 0, 0, 1, 1: mean 0.5, standard deviation 0.5774 (of a sample: K − 1), advantages ±0.8659; ±0.5 unscaled.
    A group whose rewards are all alike has advantages of 0, and so has a group of one.

    Args:
        rewards_K: the rewards of one task's trajectories.
        is_scaled: divide by the standard deviation. Without it tasks that are nearly always or nearly never solved
            weigh less: their rewards hardly differ (arXiv 2503.20783).
        epsilon: added to the standard deviation.

    Source: arXiv 2402.03300, section 4.1.2 (outcome supervision).
    """
    if bool((rewards_K == rewards_K[0]).all()):
        return torch.zeros_like(rewards_K)  # exactly: three times 0.1 have a mean that is not 0.1
    centred_K = rewards_K - rewards_K.mean()
    return centred_K / (rewards_K.std() + epsilon) if is_scaled else centred_K


def clipped_surrogate(
    logprobs_N: Tensor, old_logprobs_N: Tensor, advantages_N: Tensor, *, clip_low: float = 0.2, clip_high: float = 0.28
) -> Tensor:
    """Compute −min(ρ A, clip(ρ, 1 − ε_low, 1 + ε_high) A) per token, with the importance ratio ρ = π / π_old.

    ρ 1.5: with A 1 the loss is −1.28, and flat: no more is to be gained. With A −1 it is 1.5: a mistake that has become
    likelier is always unlearnt. ρ 0.5: with A 1 it is −0.5, with A −1 it is 0.8, and flat. At ρ 1 it is −A, and its
    gradient that of −A log π.

    Source: arXiv 1707.06347, Eq. 7; two bounds: arXiv 2503.14476, Eq. 10.
    """
    ratio_N = (logprobs_N - old_logprobs_N).exp()
    return -torch.minimum(ratio_N * advantages_N, ratio_N.clamp(1 - clip_low, 1 + clip_high) * advantages_N)


def truncated_weights(own_logprobs_N: Tensor, sampled_logprobs_N: Tensor, *, largest: float) -> Tensor:
    """Compute min(π / μ, largest) per token, which corrects a loss over samples of μ for the policy π.

    π .5, μ .4: 1.25. π .5, μ .1: `largest`, if it is below 5. Truncation bounds the variance, and biases towards what
    both agree on.

    Source: Ionides 2008, Truncated importance sampling; for a server's rounding: Yao et al. 2025, Your efficient RL
    framework secretly brings you off-policy RL training.
    """
    return (own_logprobs_N - sampled_logprobs_N).exp().clamp(max=largest)


def kl_penalty(logprobs_N: Tensor, ref_logprobs_N: Tensor) -> Tensor:
    """Estimate KL(π ‖ π_ref) per token as r − 1 − log r with r = π_ref / π: never negative.

    log π = -1, log π_ref = -1.5: r = e^-0.5 = 0.6065 and the estimate is 0.1065. Unbiased on tokens sampled from π: the
    other way round than `kl_estimate`, whose tokens are the reference's. Its gradient per token is (1 − r) ∇ log π.

    Source: arXiv 2402.03300, Eq. 4 (k3).
    """
    return kl_estimate(ref_logprobs_N, logprobs_N)


def clipped_value_loss(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, *, clip: float = 0.2) -> Tensor:
    """Compute ½ max((V − R)², (V_clipped − R)²) per token, V_clipped no further than `clip` from the old value.

    V 0.9, old value 0.5, return 1: V_clipped is 0.7, the loss ½ max(0.01, 0.09) = 0.045, and flat: the value has gone
    as far as it may. V 0.6: nothing is clipped, ½ 0.16 = 0.08.

    Source: the PPO authors' code (openai/baselines, ppo2); not in arXiv 1707.06347.
    """
    clipped_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
    return 0.5 * torch.maximum((values_N - returns_N) ** 2, (clipped_N - returns_N) ** 2)


def discounted_advantages(rewards_N: Tensor, values_N: Tensor, *, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """Compute generalised advantages of one episode: A_t = δ_t + γλ A_(t+1), δ_t = r_t + γ V_(t+1) − V_t, 0 at the end.

    Rewards 0, 0, 1, values 0.2, 0.4, 0.7, γ 1, λ 0.5: δ = 0.2, 0.3, 0.3, and from the back A = 0.3, 0.45, 0.425.
    λ 1 gives what the rest of the episode brought, less the value: 0.8, 0.6, 0.3. λ 0 gives δ.

    Args:
        rewards_N: the reward of each step, be it a token or a turn.
        values_N: what was expected before it.

    Source: arXiv 1506.02438, Eq. 16.
    """
    advantages_N = torch.zeros_like(values_N)
    following, advantage = values_N.new_zeros(()), values_N.new_zeros(())
    for step in range(len(values_N) - 1, -1, -1):
        advantage = rewards_N[step] + gamma * following - values_N[step] + gamma * lam * advantage
        advantages_N[step], following = advantage, values_N[step]
    return advantages_N
