"""A pair rule of your own: of the paper's pairs, each chosen episode keeps the one whose rejected side came closest."""

from sparring import target_pairs


def closest(experts, target, partner, config):
    kept = {}
    for pair in target_pairs(experts, target, partner, config):
        known = kept.get(pair.chosen.id)
        if known is None or pair.rejected.reward > known.rejected.reward:
            kept[pair.chosen.id] = pair
    return list(kept.values())
