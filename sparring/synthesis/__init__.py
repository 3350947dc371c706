"""New training tasks where the agent is weak: signals, synthesisers, validation and the pool of CoEvolve.

    visits ──signals──▶ flags ──synthesiser──▶ proposals ──validation──▶ verdicts ──pool──▶ tasks
               ▲                                   │ plays in the world, every episode counted (arena)
               └──────────── history               ▼

Nothing here trains, and nothing here knows a model: policies come in through their protocol, worlds through `Benchmark`
and `Synthesis`, and rollouts through a function (`arena.Play`).

Source: arXiv 2604.15840 (CoEvolve). What differs from it, and why: docs/methods/coevolve.md.
"""
