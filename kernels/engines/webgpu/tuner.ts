/**
 * Finds out which of an op's lowerings is the fastest on this device, for the shapes that programs really have.
 *
 * A candidate is run on memory of its own, with the device busy, timed by the device itself, and only taken if its result agrees
 * with that of the most trusted one; one that the device refuses is passed over. What was found is remembered on disk, by
 * device and shape, through the Cache API, which asks for no permission. All of it has a limit in time; what is left has its default
 * until the next run. Only candidates that add up in the same order belong here, so that a run can be repeated bit for bit.
 *
 * @module
 */
import { EngineError } from "../../engine.ts";
import { bytesOf, type Node } from "../../graph.ts";
import type { Alternative, Pass } from "../../op.ts";
import type { Device } from "./device.ts";
import { timedPasses } from "./timing.ts";

/** Milliseconds that measuring may take in one load of a program. */
const LIMIT = 2500;

/** Milliseconds of work after which a device that was idle has its clocks up: what is measured before would only rank by turn. */
const WARM_UP = 100;

/** Milliseconds that a series of runs of one candidate should take, and how many runs at most. */
const SERIES = 1.5, MOST_RUNS = 40;

/** What candidates that multiply in f16 may differ by from one in f32; a wrong one differs by about 1. */
const AGREEMENT = 0.02;

/** Numbers of a result that are compared. */
const SAMPLE = 16384;

/** Counts up when shaders change so much that old measurements mean nothing. */
const VERSION = 4;

/** A lowering made ready on buffers of the tuner's. */
export interface Trial extends Disposable {
  /** Puts the dispatches into a pass. */
  encode(pass: GPUComputePassEncoder): void;
}

/** Compiles passes and binds them to buffers, one for each operand. */
export type Binder = (node: Node, passes: readonly Pass[], buffers: readonly GPUBuffer[]) => Promise<Trial>;

/** Chooses between lowerings. */
export class Tuner {
  readonly #device: Device;
  readonly #bind: Binder;
  readonly #measures: boolean;
  /** Names of alternatives by shape; undefined until what is on disk has been read. */
  #choices: Map<string, string> | undefined;
  /** What every node with alternatives was given, its op's own choice included. */
  readonly #given = new Map<string, string>();
  #kept: ReadonlyMap<string, string> = new Map();

  /** @param measures off to leave every op its default */
  constructor(device: Device, bind: Binder, measures: boolean) {
    this.#device = device;
    this.#bind = bind;
    this.#measures = measures && device.gpu.features?.has("timestamp-query");
  }

  /** What has been chosen so far: names of alternatives by op and shapes. */
  get choices(): ReadonlyMap<string, string> {
    return this.#choices ?? new Map();
  }

  /** Names of the alternatives that nodes have been given, by op and shapes. */
  get given(): ReadonlyMap<string, string> {
    return this.#given;
  }

  /** Takes these instead of measuring, whatever is remembered of the device. */
  keepTo(given: ReadonlyMap<string, string>): void {
    this.#kept = given;
    for (const [key, name] of given) this.#given.set(key, name);
  }

  /** The passes of a node: as it was before, as chosen, or the op's default. */
  passes(node: Node): Pass[] {
    const { limits } = this.#device;
    if (!node.op.alternatives) return node.op.webgpu(node, limits);
    const key = keyOf(node), name = this.#kept.get(key) ?? this.#choices?.get(key);
    const chosen = node.op.alternatives(node, limits).find((other) => other.name === name);
    this.#given.set(key, chosen?.name ?? DEFAULT);
    return chosen ? chosen.passes() : node.op.webgpu(node, limits);
  }

  /** Measures what has not been measured yet, the most frequent and largest first. */
  async tune(nodes: readonly Node[]): Promise<void> {
    if (!this.#measures) return;
    const choices = this.#choices ??= await remembered(this.#device.description);
    const open = new Map<string, { node: Node; weight: number }>();
    for (const node of nodes) {
      if (!node.op.alternatives) continue;
      const key = keyOf(node), size = [...node.inputs, ...node.outputs].reduce((sum, t) => sum + t.size, 0);
      if (!choices.has(key) && !this.#kept.has(key)) {
        open.set(key, { node, weight: (open.get(key)?.weight ?? 0) + size });
      }
    }
    if (!open.size) return;
    const deadline = performance.now() + LIMIT;
    let warmUp = WARM_UP;
    using scratch = new Scratch(this.#device);
    for (const [key, { node }] of [...open].sort(([, a], [, b]) => b.weight - a.weight)) {
      if (performance.now() > deadline) break;
      const [trusted, ...others] = node.op.alternatives!(node, this.#device.limits);
      const candidates = [trusted!, ...others.filter(({ worthTrying }) => worthTrying)];
      choices.set(key, await this.#fastest(node, candidates, scratch, warmUp));
      warmUp = 0;
    }
    await remember(this.#device.description, choices);
  }

  /** The name of the fastest candidate that agrees with the first, after so many milliseconds of work. */
  async #fastest(
    node: Node,
    candidates: readonly Alternative[],
    scratch: Scratch,
    warmUp: number,
  ): Promise<string> {
    const buffers = scratch.buffers(node);
    const made = await Promise.allSettled(
      candidates.map(({ passes }) => this.#bind(node, passes(), buffers)),
    );
    let trusted: Float32Array | undefined, best = { name: DEFAULT, ms: Infinity }, runs = 3;
    for (const [i, { name, worthTrying }] of candidates.entries()) {
      const found = made[i]!;
      // The device refuses this one: another will do.
      if (found.status === "rejected") continue;
      using trial = found.value;
      const series = (count: number) => (pass: GPUComputePassEncoder) => {
        for (let i = 0; i < count; i++) trial.encode(pass);
      };
      try {
        for (const end = performance.now() + warmUp; performance.now() < end;) {
          await timedPasses(this.#device, [series(MOST_RUNS), series(MOST_RUNS)]);
        }
        warmUp = 0;
        const [first] = await timedPasses(this.#device, [series(runs)]);
        const result = await scratch.sample(buffers[node.inputs.length]!);
        trusted ??= result;
        if (!worthTrying || !(difference(result, trusted) < AGREEMENT)) continue;
        runs = Math.max(3, Math.min(MOST_RUNS, Math.ceil(SERIES * runs / first!)));
        const times = await timedPasses(this.#device, [series(runs), series(runs)]);
        const ms = Math.min(...times) / runs;
        if (ms < best.ms) best = { name, ms };
      } catch (error) {
        if (!(error instanceof EngineError)) throw error;
      }
    }
    return best.name;
  }
}

/** Stands for the op's own choice; no alternative has this name. */
const DEFAULT = "default";

/** What a choice depends on. */
function keyOf({ op, inputs, outputs, attributes }: Node): string {
  const types = [...inputs, ...outputs].map(({ dtype, shape }) => `${dtype}[${shape.join(",")}]`);
  return `${op.name} ${types.join(" ")} ${JSON.stringify(attributes)}`;
}

/** ‖a − b‖ / ‖b‖. */
function difference(a: Float32Array, b: Float32Array): number {
  let error = 0, norm = 0;
  for (let i = 0; i < b.length; i++) {
    error += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return Math.sqrt(error / norm);
}

/** Buffers for candidates to work on, filled with numbers that are ordinary in every storage. */
class Scratch implements Disposable {
  readonly #device: Device;
  readonly #buffers: GPUBuffer[] = [];

  constructor(device: Device) {
    this.#device = device;
  }

  /** One buffer for each operand of a node, large enough. */
  buffers(node: Node): GPUBuffer[] {
    return [...node.inputs, ...node.outputs].map((t, i) => {
      const size = Math.max(4, bytesOf(t));
      if ((this.#buffers[i]?.size ?? 0) < size) {
        this.#buffers[i]?.destroy();
        this.#buffers[i] = this.#filled(size);
      }
      return this.#buffers[i]!;
    });
  }

  #filled(size: number): GPUBuffer {
    const { gpu } = this.#device;
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
    const buffer = gpu.createBuffer({ label: "tuning", size, usage });
    // Two halves that are ±0.25 to ±1 in bf16, so that the word is such a number in f32 and two of the kind in f16.
    const half = () => 0x3e80 + Math.floor(Math.random() * 0x100) + (Math.random() < 0.5 ? 0x8000 : 0);
    const words = Uint32Array.from({ length: Math.min(size / 4, 1 << 18) }, () => half() * 65536 + half());
    for (let at = 0; at < size; at += words.byteLength) {
      gpu.queue.writeBuffer(buffer, at, words.subarray(0, Math.min(words.length, (size - at) / 4)));
    }
    return buffer;
  }

  /** The first numbers of a buffer. */
  async sample(buffer: GPUBuffer): Promise<Float32Array> {
    const { gpu } = this.#device, size = Math.min(buffer.size, SAMPLE * 4);
    const staging = gpu.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    try {
      const encoder = gpu.createCommandEncoder();
      encoder.copyBufferToBuffer(buffer, 0, staging, 0, size);
      gpu.queue.submit([encoder.finish()]);
      await staging.mapAsync(GPUMapMode.READ);
      return new Float32Array(staging.getMappedRange().slice(0));
    } finally {
      staging.destroy();
    }
  }

  [Symbol.dispose](): void {
    this.#buffers.forEach((buffer) => buffer.destroy());
  }
}

const CACHE = "wishbone";

/** Under which name the choices of a device are kept. */
function place(device: string): string {
  return `https://wishbone.invalid/choices/${VERSION}/${encodeURIComponent(device)}`;
}

async function remembered(device: string): Promise<Map<string, string>> {
  try {
    const found = await (await caches.open(CACHE)).match(place(device));
    return new Map(found ? Object.entries(await found.json() as Record<string, string>) : []);
  } catch {
    // Without a place to remember, or with something else in it, everything is measured again.
    return new Map();
  }
}

async function remember(device: string, choices: ReadonlyMap<string, string>): Promise<void> {
  try {
    const text = JSON.stringify(Object.fromEntries(choices));
    await (await caches.open(CACHE)).put(place(device), new Response(text));
  } catch {
    // The next run measures again.
  }
}
