"""The figures' names, and the buckets of their histograms: OpenTelemetry's for generative AI, with ``_`` for ``.``."""

from collections.abc import Mapping

DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Of a whole request."""
FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = (1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864)
OVERHEAD_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LEVEL_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 300.0)

REQUEST_DURATION = "gen_ai_server_request_duration_seconds"
FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds"
PER_TOKEN = "gen_ai_server_time_per_output_token_seconds"
TOKEN_USAGE = "gen_ai_client_token_usage"

VLLM_HISTOGRAMS: Mapping[str, str] = {
    REQUEST_DURATION: "vllm:e2e_request_latency_seconds",
    FIRST_TOKEN: "vllm:time_to_first_token_seconds",
    PER_TOKEN: "vllm:inter_token_latency_seconds",
    "p2pnode_queue_seconds": "vllm:request_queue_time_seconds",
}
VLLM_OF = ("http", "client", "router", "miner")
"""Whose requests vLLM's names stand for: the first of these roles that a node plays."""

ROUTER: Mapping[str, str] = {
    "sessions": "Sessions that it serves.",
    "sessions_ready": "Those of them with a leased miner.",
    "queued": "Sessions that wait for a miner.",
    "tasks": "Orders of its clients that are not over.",
    "clients": "Streams of clients.",
    "clients_away": "Sessions whose client is away and may come back.",
}
ORACLE: Mapping[str, str] = {
    "lanes_open": "Lanes that are not decided.",
    "lanes_observed": "Those of them that this oracle has signed a value for.",
    "openings_held": "Openings that wait for a batch.",
    "items_waiting": "Items of all kinds that wait for a batch.",
    "followers": "Streams that follow the final headers.",
    "watches": "Watches of sessions.",
}
