/**
 * Errors as clients of OpenAI's API expect them, on every route that gives data.
 *
 * @module
 */
import { BusyError } from "./inference/scheduler.ts";
import { UnknownModelError } from "./inference/library.ts";

/** A request that cannot be answered: a status, one sentence, and what it is about. */
export class ApiError extends Error {
  override readonly name = "ApiError";

  /**
   * @param status HTTP status
   * @param param the field of the request that is at fault
   * @param code a word for programs
   */
  constructor(
    readonly status: number,
    message: string,
    readonly param: string | null = null,
    readonly code: string | null = null,
  ) {
    super(message);
  }
}

/** OpenAI's error object. */
export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string | null;
  };
}

/** Seconds after which a client that was told to wait may try again. */
const RETRY_SECONDS = "2";

/** The error to tell a client; what is not for clients becomes "internal". */
export function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof UnknownModelError) return new ApiError(404, error.message, "model", "model_not_found");
  if (error instanceof BusyError) return new ApiError(429, error.message, null, "rate_limit_exceeded");
  if (error instanceof DOMException && error.name === "AbortError") {
    return new ApiError(499, "The client has gone", null, "client_gone");
  }
  if (error instanceof DOMException && error.name === "TimeoutError") {
    return new ApiError(
      504,
      "The answer took longer than the server allows: ask for fewer tokens",
      null,
      "timeout",
    );
  }
  return new ApiError(500, "The server failed; its terminal says more", null, "internal_error");
}

/** The body of an error. */
export function errorBody({ status, message, param, code }: ApiError): ErrorBody {
  const type = status === 429
    ? "rate_limit_error"
    : status === 401
    ? "authentication_error"
    : status >= 500
    ? "server_error"
    : "invalid_request_error";
  return { error: { message, type, param, code } };
}

/** The whole response of an error. */
export function errorResponse(error: ApiError, headers: Record<string, string> = {}): Response {
  return Response.json(errorBody(error), {
    status: error.status,
    headers: {
      ...(error.status === 429 || error.status === 503 ? { "retry-after": RETRY_SECONDS } : {}),
      ...headers,
    },
  });
}
