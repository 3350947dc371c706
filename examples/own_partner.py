"""A partner of your own: a failure agent that learns from its own failures alone, whatever the target agent does."""

from sparring import PartnerKind, failure_pairs


def own_failures(session, experts, target, partner, late):
    return failure_pairs((), partner, session.config.pairs, pair_scope="all")


# The function alone would do. A PartnerKind can also say what plays in the partner's place (`plays`).
introvert = PartnerKind(learns=own_failures)
