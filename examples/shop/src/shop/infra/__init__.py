"""Local servers for the shop whose services are processes of their own: started and ended together, on loopback."""
