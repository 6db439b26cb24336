/**
 * An engine without matrix units that rounds as they do.
 *
 * @module
 */
import type { Executable } from "../kernels/engine.ts";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import type { NumberArray } from "../kernels/op.ts";
import type { Program } from "../kernels/plan.ts";

/** The oracle with products whose operands are rounded to f16, as matrix units round them. */
export class RoundingOracle extends Oracle {
  override load(program: Program): Promise<Executable> {
    const rounded = (memory: NumberArray) =>
      memory instanceof Uint16Array ? memory : Float64Array.from(Float16Array.from(memory));
    const nodes = program.nodes.map((node) => {
      if (!/matmul$/i.test(node.op.name)) return node;
      const cpu: typeof node.op.cpu = (call) =>
        node.op.cpu({ ...call, memory: call.memory.map((m, i) => i < 2 ? rounded(m) : m) });
      return { ...node, op: { ...node.op, cpu } };
    });
    return super.load({ ...program, nodes });
  }
}
