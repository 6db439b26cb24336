/**
 * TensorBoard's event files: TFRecords (length, payload, a CRC of each) whose payloads are `Event` messages of Protocol
 * Buffers (tensorflow/core/util/event.proto and framework/summary.proto). Only scalars and texts are written.
 *
 * @module
 */
import { join } from "node:path";
import { writeError } from "../formats/atomic.ts";
import { writeFully } from "../formats/random_access_file.ts";

/** A file of events, appended to as they happen. */
export class EventFile implements Disposable {
  readonly #file: Deno.FsFile;
  readonly #folder: string;

  /**
   * @param folder made where it is not there; every run and resumption writes a file of its own
   * @param resumeAt steps that are kept of earlier files; TensorBoard drops what they hold of later ones
   */
  constructor(folder: string, resumeAt: number) {
    this.#folder = folder;
    Deno.mkdirSync(folder, { recursive: true });
    const seconds = Math.floor(Date.now() / 1000);
    this.#file = openNew(folder, `events.out.tfevents.${String(seconds).padStart(10, "0")}.wishbone`);
    this.#event(0, bytesField(3, "brain.Event:2"));
    if (resumeAt > 0) this.#event(resumeAt + 1, bytesField(7, varintField(1, 1)));
  }

  /** Writes numbers of a step under their tags. */
  scalars(step: number, values: Readonly<Record<string, number>>): void {
    const summary = Object.entries(values).map(([tag, value]) =>
      bytesField(1, concatenated(bytesField(1, tag), floatField(2, value)))
    );
    if (summary.length) this.#event(step, bytesField(5, concatenated(...summary)));
  }

  /** Writes a text of a step under a tag. */
  text(step: number, tag: string, text: string): void {
    const plugin = bytesField(9, bytesField(1, bytesField(1, "text")));
    // A tensor of type DT_STRING and shape [1].
    const shape = bytesField(2, bytesField(2, varintField(1, 1)));
    const tensor = bytesField(8, concatenated(varintField(1, 7), shape, bytesField(8, text)));
    this.#event(step, bytesField(5, bytesField(1, concatenated(bytesField(1, tag), plugin, tensor))));
  }

  #event(step: number, content: Uint8Array): void {
    const event = concatenated(doubleField(1, Date.now() / 1000), varintField(2, step), content);
    try {
      writeFully(this.#file, record(event));
    } catch (error) {
      throw writeError(this.#folder, error);
    }
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

function openNew(folder: string, name: string): Deno.FsFile {
  for (let i = 0;; i++) {
    try {
      return Deno.openSync(join(folder, i ? `${name}.${i}` : name), { write: true, createNew: true });
    } catch (error) {
      if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
    }
  }
}

/** A TFRecord: length, its masked CRC, payload, its masked CRC; all little-endian. */
function record(payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(payload.length + 16), view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(payload.length), true);
  view.setUint32(8, masked(crc32c(bytes.subarray(0, 8))), true);
  bytes.set(payload, 12);
  view.setUint32(12 + payload.length, masked(crc32c(payload)), true);
  return bytes;
}

/** The rotation and constant that TFRecord masks its CRCs with. */
function masked(crc: number): number {
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C (Castagnoli), as TFRecord uses it. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return ~crc >>> 0;
}

function concatenated(...parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) (whole.set(part, at), at += part.length);
  return whole;
}

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push(value % 128 | 128);
  return Uint8Array.from([...bytes, value]);
}

function varintField(field: number, value: number): Uint8Array {
  return concatenated(varint(field * 8), varint(value));
}

function doubleField(field: number, value: number): Uint8Array {
  const bytes = new Uint8Array(9);
  bytes[0] = field * 8 + 1;
  new DataView(bytes.buffer).setFloat64(1, value, true);
  return bytes;
}

function floatField(field: number, value: number): Uint8Array {
  const bytes = new Uint8Array(5);
  bytes[0] = field * 8 + 5;
  new DataView(bytes.buffer).setFloat32(1, value, true);
  return bytes;
}

function bytesField(field: number, content: Uint8Array | string): Uint8Array {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  return concatenated(varint(field * 8 + 2), varint(bytes.length), bytes);
}
