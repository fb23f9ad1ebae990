"""The routes of the Auth stand-in under `/auth/v1`."""

from typing import Any

import structlog
from litestar import Response, Router
from litestar.di import Provide

from sandbox.supabase.auth import account, admin, factors, grants, links, public, signup, verify
from sandbox.supabase.auth.errors import AuthError, OAuthError, error_response
from sandbox.supabase.auth.requests import AnyRequest, headers_of
from sandbox.supabase.auth.service import Auth
from sandbox.supabase.gateway import GatewayError

log = structlog.get_logger()


def _auth_error(request: AnyRequest, error: AuthError) -> Response[dict[str, Any]]:
    return error_response(error, headers_of(request))


def _oauth_error(_request: AnyRequest, error: OAuthError) -> Response[dict[str, str]]:
    return Response(error.body, status_code=400)


def _gateway_error(_request: AnyRequest, error: GatewayError) -> Response[dict[str, str]]:
    return Response(error.body, status_code=401)


def _unexpected(request: AnyRequest, error: Exception) -> Response[dict[str, Any]]:
    log.error("sandbox.auth_failed", path=request.url.path, exc_info=error)
    failure = AuthError(500, "unexpected_failure", "Unexpected failure, please check server logs")
    return error_response(failure, headers_of(request))


def _the_auth(request: AnyRequest) -> Auth:
    auth: Auth = request.app.state.auth
    return auth


AUTH_ROUTER = Router(
    path="/auth/v1",
    route_handlers=[
        public.jwks,
        public.openid_configuration,
        public.health,
        public.settings,
        public.authorize,
        signup.signup,
        signup.otp,
        signup.magiclink,
        signup.recover,
        signup.resend,
        grants.token,
        verify.verify_post,
        verify.verify_get,
        account.get_user,
        account.put_user,
        account.reauthenticate,
        account.logout,
        account.link_identity,
        account.unlink_identity,
        factors.enroll,
        factors.challenge,
        factors.verify,
        factors.unenroll,
        admin.list_users,
        admin.create_user,
        admin.get_user,
        admin.update_user,
        admin.delete_user,
        admin.list_factors,
        admin.delete_factor,
        links.invite,
        links.generate_link,
    ],
    dependencies={"auth": Provide(_the_auth, sync_to_thread=False)},
    exception_handlers={
        AuthError: _auth_error,
        OAuthError: _oauth_error,
        GatewayError: _gateway_error,
        Exception: _unexpected,
    },
    include_in_schema=False,
)
