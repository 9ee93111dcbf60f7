"""The protocols of ``shop.ports`` over gRPC, as the ``.proto`` files describe them."""
