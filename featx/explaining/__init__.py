"""How far a prediction can be trusted: conformal sets, similar training items, unfamiliarity and heat maps."""
