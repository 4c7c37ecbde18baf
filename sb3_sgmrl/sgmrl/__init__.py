from sb3_sgmrl.sgmrl.sgmrl import SGMRL

__all__ = ["SGMRL"]
