/**
 * Reads the body of a request: JSON, of a limited size, in a limited time.
 *
 * @module
 */
import { ApiError } from "./errors.ts";

/** Bytes of a body, at most: about a novel. */
export const BODY_BYTES = 1 << 20;

/** A JSON object that somebody sent. */
export type JsonObject = Readonly<Record<string, unknown>>;

/**
 * The JSON object in a request's body.
 * @param milliseconds that its sender has
 * @throws ApiError with 413, 408 or 400
 */
export async function readJson(request: Request, milliseconds = 10_000): Promise<JsonObject> {
  const bytes = await readBytes(request, milliseconds);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new ApiError(400, "The body is not UTF-8", null, "invalid_json");
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ApiError(400, "The body is not JSON", null, "invalid_json");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new ApiError(400, "The body must be a JSON object", null, "invalid_json");
  }
  return value as JsonObject;
}

async function readBytes(request: Request, milliseconds: number): Promise<Uint8Array> {
  const tooLarge = () =>
    new ApiError(
      413,
      `The body is larger than the ${BODY_BYTES} bytes that are read`,
      null,
      "body_too_large",
    );
  if (Number(request.headers.get("content-length") ?? 0) > BODY_BYTES) throw tooLarge();
  if (!request.body) return new Uint8Array();
  const reader = request.body.getReader();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () =>
        reject(new ApiError(408, `The body did not arrive within ${milliseconds / 1000} s`, null, "timeout")),
      milliseconds,
    );
  });
  try {
    const parts: Uint8Array[] = [];
    for (let size = 0;;) {
      const { value, done } = await Promise.race([reader.read(), late]);
      if (done) break;
      size += value.length;
      if (size > BODY_BYTES) throw tooLarge();
      parts.push(value);
    }
    const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
    let at = 0;
    for (const part of parts) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  } catch (error) {
    reader.cancel().catch(() => {});
    if (error instanceof ApiError) throw error;
    throw new ApiError(400, "The body ended before it was whole", null, "invalid_json");
  } finally {
    clearTimeout(timer);
    late.catch(() => {});
  }
}
