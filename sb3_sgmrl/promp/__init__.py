from sb3_sgmrl.promp.promp import ProMP

__all__ = ["ProMP"]
