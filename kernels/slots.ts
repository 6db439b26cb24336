/**
 * Where values lie in memory: those that are not alive at the same time share it.
 *
 * Values are placed largest first, of one size those that live longest, and of these the last; each in the free range of a slot that
 * lies idle for the shortest time before or after it, or else in a slot of its own (greedy by size, improved: Pisarchyk and Lee, arXiv 2001.03288, with
 * slots that smaller values divide). A slot is a buffer, and no shader may write to one that it also reads: a node's results
 * never lie in a slot with its other operands.
 *
 * @module
 */
import { bytesOf, inputsRead, type Node, type Tensor } from "./graph.ts";
import type { Life } from "./lives.ts";
import { type View, VIEW_ALIGNMENT, viewOf } from "./views.ts";

/** Where a value lies. */
export interface Place {
  /** Index of the slot. */
  readonly slot: number;
  /** Where in the slot the value starts. */
  readonly byteOffset: number;
}

/** Bytes of a slot, at least: what a shader that reads vectors of four has to find bound even where there is nothing to read. */
const LEAST_SLOT = 16;

/** A value in a slot, or on its way to one. */
interface Tenant extends Life {
  /** Nodes that read the value, or views of it. */
  readonly readAt: ReadonlySet<number>;
  readonly bytes: number;
  start: number;
}

/** Slots, by their sizes in bytes, and a place for each value that lives. */
export function placed(
  nodes: readonly Node[],
  lives: ReadonlyMap<Tensor, Life>,
  views: ReadonlyMap<Tensor, View>,
): { slots: number[]; placement: Map<Tensor, Place> } {
  const readAt = new Map(lives.keys().map((t) => [t, new Set<number>()]));
  nodes.forEach((node, at) => inputsRead(node).forEach((t) => readAt.get(viewOf(views, t).of)?.add(at)));
  const slots: { bytes: number; tenants: Tenant[] }[] = [];
  const placement = new Map<Tensor, Place>();
  const length = ({ first, last }: Life) => last - first;
  const order = [...lives].sort(([a, x], [b, y]) =>
    bytesOf(b) - bytesOf(a) || length(y) - length(x) || y.first - x.first
  );
  for (const [t, life] of order) {
    const tenant: Tenant = { ...life, readAt: readAt.get(t)!, bytes: bytesOf(t), start: 0 };
    let found: number | undefined, least = Infinity;
    slots.forEach(({ bytes, tenants }, slot) => {
      const start = freeFrom(tenants, tenant);
      if (start === undefined || start + tenant.bytes > bytes) return;
      const idle = idleAround(tenants, tenant, start);
      if (found !== undefined && idle >= least) return;
      [found, least, tenant.start] = [slot, idle, start];
    });
    found ??= slots.push({ bytes: Math.max(LEAST_SLOT, tenant.bytes), tenants: [] }) - 1;
    slots[found]!.tenants.push(tenant);
    placement.set(t, { slot: found, byteOffset: tenant.start });
  }
  return { slots: slots.map(({ bytes }) => bytes), placement };
}

/** Where in a slot, or past its end, a value may start; undefined if it may not lie there at all. */
function freeFrom(tenants: readonly Tenant[], tenant: Tenant): number | undefined {
  const beside = tenants.filter((other) => idleBetween(other, tenant) <= 0);
  if (beside.some((other) => other.readAt.has(tenant.first) || tenant.readAt.has(other.first))) {
    return undefined;
  }
  if (beside.some((other) => other.first === tenant.first)) return undefined;
  let start = 0;
  for (const other of beside.sort((a, b) => a.start - b.start)) {
    if (start + tenant.bytes <= other.start) break;
    start = Math.max(start, aligned(other.start + other.bytes));
  }
  return start;
}

/** For how many nodes the range lies idle before or after a value; Infinity if nothing else was ever there. */
function idleAround(tenants: readonly Tenant[], tenant: Tenant, start: number): number {
  let least = Infinity;
  for (const other of tenants) {
    const meets = other.start < start + tenant.bytes && start < other.start + other.bytes;
    if (meets) least = Math.min(least, idleBetween(other, tenant));
  }
  return least;
}

/** Nodes from the end of one life to the beginning of the other; not above 0 where they overlap. */
function idleBetween(one: Life, other: Life): number {
  return Math.max(one.first - other.last, other.first - one.last);
}

const aligned = (bytes: number) => Math.ceil(bytes / VIEW_ALIGNMENT) * VIEW_ALIGNMENT;
