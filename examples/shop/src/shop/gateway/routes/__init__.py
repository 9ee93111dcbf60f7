"""The routes of the gateway, a file for each part of the shop."""
