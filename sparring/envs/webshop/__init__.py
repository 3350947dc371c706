"""WebShop, a text shop: see `benchmark` for the world, `generated` and `official` for what it sells."""

from sparring.envs.webshop.benchmark import WebShop

__all__ = ["WebShop"]
