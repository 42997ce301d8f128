"""The surface of a router or a gateway: OpenAI's HTTP interface, written against a light client."""
