"""The connection to Ray: what keeps a job from a cluster is named."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from ray.exceptions import AuthenticationError

from schemas.errors import EngineError
from services.cluster import _connection_error


@pytest.fixture
def head():
    """Starts a server in place of a cluster's head, which refuses each request with a status; returns its address."""
    servers = []

    def start(status):
        def refuse(_, context):
            context.abort(status, "refused")

        server = grpc.server(ThreadPoolExecutor(1))
        service = {"GetClusterId": grpc.unary_unary_rpc_method_handler(refuse)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", service)])
        servers.append(server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait()


def no_connection(address):
    return ConnectionError(f"Failed to connect to Ray cluster at {address}")


def test_a_cluster_that_wants_a_token_is_named_with_the_remedy(head):
    address = head(grpc.StatusCode.UNAUTHENTICATED)
    # Ray asks for a token by itself where RAY_AUTH_MODE is set and there is none.
    for error in (no_connection(address), AuthenticationError("Token authentication is enabled but no token was")):
        named = _connection_error(address, error)
        assert isinstance(named, EngineError) and "wants a token" in named.cause
        assert "export RAY_AUTH_MODE=token" in named.remedy


def test_a_head_that_is_gone_or_fails_wants_no_token(head):
    for address in (head(grpc.StatusCode.UNAVAILABLE), "127.0.0.1:1"):
        assert "no Ray cluster answers there" in _connection_error(address, no_connection(address)).cause
    assert "no Ray cluster answers there" in _connection_error("auto", ConnectionError("none was found")).cause
