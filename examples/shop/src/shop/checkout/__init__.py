"""The checkout that a saga leads, beside the one that the services dance by themselves."""
