"""The shop's side of paying: payments, refunds, the webhooks of the bank."""
