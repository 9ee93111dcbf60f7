"""The door to the shop: REST routes, pages, and the order timeline."""
