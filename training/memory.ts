/**
 * What a run takes of an engine's memory, known before any of it is allocated, and what would fit where it does not.
 *
 * @module
 */
import { bytesOf, type TensorType } from "../kernels/graph.ts";
import type { Engine } from "../kernels/engine.ts";
import type { Program } from "../kernels/plan.ts";
import type { Learner } from "./learner.ts";
import { OptionError } from "./options.ts";

/** A piece of memory and how large the device lets it be. */
export interface LargestBinding {
  /** What it is, for people. */
  readonly what: string;
  /** Bytes of it. */
  readonly bytes: number;
  /** Bytes that it may have. Undefined on an engine that binds nothing. */
  readonly limit: number | undefined;
}

/** What a run takes of an engine's memory. */
export interface MemoryPlan {
  /** What takes how much, all of it at once. */
  readonly rows: readonly { readonly what: string; readonly bytes: number }[];
  /** Bytes of all rows. */
  readonly bytes: number;
  /** Bytes of them that are not allocated yet: the values of a step, and of measuring. */
  readonly needed: number;
  /** Bytes that the engine can still take; Infinity where it does not say. */
  readonly room: number;
  /** What of it a shader sees at once, or the largest tensor where there are no shaders. */
  readonly largest: LargestBinding;
}

/** The row of the memory that measuring on held-out text takes beside a step's. */
const MEASURING = "measuring";

/** Plans the memory of a run. @param measures whether it measures on held-out text */
export function planMemory(learner: Learner, measures: boolean): MemoryPlan {
  const { programs, engine, model, trainables: { groups } } = learner;
  const { gradients, update, loss, savedBytes } = programs;
  const sum = (tensors: Iterable<TensorType>) => [...tensors].reduce((bytes, t) => bytes + bytesOf(t), 0);
  const trained = sum(groups.map(({ p }) => p));
  const weights = [...model.shapes.keys()].flatMap((name) => model.weight(name) ?? []);
  const rows = [
    { what: "frozen weights", bytes: sum(weights) },
    { what: learner.trainsWeights ? "trained weights" : "adapter and what trains along", bytes: trained },
    { what: "gradients", bytes: sum(groups.map(({ g }) => g)) },
    { what: "optimizer (two moments)", bytes: 2 * trained },
    { what: "batch and reports", bytes: programs.variableBytes },
    { what: "saved activations", bytes: savedBytes },
    { what: "workspace", bytes: gradients.workspaceBytes - savedBytes + update.workspaceBytes },
    ...(programs.shorterBytes
      ? [{ what: "workspace of shorter samples", bytes: programs.shorterBytes }]
      : []),
    ...(measures ? [{ what: MEASURING, bytes: loss.workspaceBytes }] : []),
  ];
  const bytes = rows.reduce((all, { bytes }) => all + bytes, 0);
  return {
    rows,
    bytes,
    needed: programs.bytes + (measures ? loss.workspaceBytes : 0),
    room: engine.room("f32"),
    largest: largestBinding(gradients, engine),
  };
}

/** The largest range that one shader is given, as the ops cut large tensors up for this device. */
function largestBinding(program: Program, { limits }: Engine): LargestBinding {
  let largest: LargestBinding = { what: "nothing", bytes: 0, limit: limits?.bindingBytes };
  for (const node of program.nodes) {
    const operands = [...node.inputs, ...node.outputs];
    const bound = limits
      ? node.op.webgpu(node, limits).flatMap((pass) => pass.bindings)
      : operands.map((_, operand): { operand: number; byteLength?: number } => ({ operand }));
    for (const { operand, byteLength } of bound) {
      const t = operands[operand]!, bytes = byteLength ?? bytesOf(t);
      if (bytes <= largest.bytes) continue;
      const what = t.variable ? t.variable.name : `a value [${t.shape.join(", ")}] of ${node.op.name}`;
      largest = { ...largest, what, bytes };
    }
  }
  return largest;
}

/** One sentence on the memory that a run takes. @throws OptionError if it cannot fit, with what would */
export function requireMemory(learner: Learner, plan: MemoryPlan): string {
  if (!fits(plan)) {
    throw new OptionError(
      `The values of a step need ${megabytes(plan.needed)} and the ${learner.engine.name} engine has ${
        megabytes(plan.room)
      } left beside weights, adapter and optimizer: ${advice(learner, plan)}`,
    );
  }
  const held = learner.engine.allocatedBytes;
  return `Memory: ${megabytes(held)} for weights, adapter and optimizer, ${
    megabytes(plan.needed)
  } for the values of a step (largest single tensor ${megabytes(plan.largest.bytes)})`;
}

/** Whether a plan stays within what the engine holds and binds, as far as that is known. */
export function fits({ needed, room, largest }: MemoryPlan): boolean {
  return needed <= room && largest.bytes <= (largest.limit ?? Infinity);
}

/** What to change so that a plan fits, found by planning it. */
export function advice(learner: Learner, plan: MemoryPlan): string {
  const { settings } = learner;
  const { microBsz, gradCp, accumulateGradBatches: many } = settings;
  const chunked = settings.trainType === "infctx";
  const measures = plan.rows.some(({ what }) => what === MEASURING);
  const within = (sizes: { B?: number; T?: number; recompute?: boolean }) => {
    const programs = learner.plan(sizes);
    return programs.bytes + (measures ? programs.loss.workspaceBytes : 0) <= plan.room &&
      largestBinding(programs.gradients, learner.engine).bytes <= (plan.largest.limit ?? Infinity);
  };
  const found: string[] = [];
  if (!gradCp && within({ recompute: true })) found.push("use --grad_cp 1");
  const B = largestThat((B) => within({ B }), microBsz - 1);
  if (B > 0) {
    const steady = microBsz % B === 0 && many === 1
      ? ` (with --accumulate_grad_batches ${microBsz / B} the steps stay as they are)`
      : "";
    found.push(`use --micro_bsz ${B}${found.length ? steady : ""}`);
  }
  if (found.length) return found.join(", or ");
  const T = largestThat(
    (T) => within({ B: 1, T, recompute: true }),
    (chunked ? settings.chunkCtx : settings.ctxLen) - 1,
  );
  if (T > 0) {
    const others = [microBsz > 1 ? "--micro_bsz 1" : "", gradCp ? "" : "--grad_cp 1"].filter(Boolean);
    const also = others.length ? ` with ${others.join(" and ")}` : "";
    return chunked
      ? `use --chunk_ctx ${T}${also}`
      : `use --ctx_len ${T}${also}, or --train_type infctx --chunk_ctx ${T}${also}`;
  }
  return "use a smaller model, or a lower rank";
}

/** The largest power of two, at most `limit`, that passes; 0 where 1 does not. */
function largestThat(passes: (n: number) => boolean, limit: number): number {
  if (limit < 1 || !passes(1)) return 0;
  let n = 1;
  while (2 * n <= limit && passes(2 * n)) n *= 2;
  return n;
}

/** Bytes as people read them. */
export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
