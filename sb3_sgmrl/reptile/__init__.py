from sb3_sgmrl.reptile.reptile import Reptile

__all__ = ["Reptile"]
