/**
 * Whether a device's matrix units can be counted on: they are experimental, so that a driver may offer them and refuse the shader,
 * or compute something else.
 *
 * @module
 */
import { type Engine, EngineError } from "../../engine.ts";
import { Graph, Variable } from "../../graph.ts";
import { matmul } from "../../ops/matmul/op.ts";
import { assign } from "../../ops/update/op.ts";
import { compile } from "../../plan.ts";

/** Sizes that divide into blocks of 16 × 16 and into tiles of 64 × 64 only with a rest. */
const M = 48, N = 80, K = 96;

/**
 * Multiplies two small matrices of whole numbers, as x·Wᵀ and as dy·W, on an engine that uses matrix units.
 * @returns what went wrong, or undefined where the products are exact
 */
export async function matrixUnitsFault(engine: Engine): Promise<string | undefined> {
  for (const transposeB of [true, false]) {
    const a = new Variable("a", [M, K]), b = new Variable("b", transposeB ? [N, K] : [K, N]);
    const out = new Variable("out", [M, N]), graph = new Graph();
    assign(graph, out, matmul(graph, graph.use(a), graph.use(b), { transposeB }));
    const A = wholeNumbers(M * K, 7), B = wholeNumbers(N * K, 11);
    try {
      engine.allocate(a, A);
      engine.allocate(b, B);
      engine.allocate(out);
      using program = await engine.load(compile(graph));
      program.run();
      const result = await engine.read(out);
      for (let m = 0; m < M; m++) {
        for (let n = 0; n < N; n++) {
          let sum = 0;
          for (let k = 0; k < K; k++) sum += A[m * K + k]! * B[transposeB ? n * K + k : k * N + n]!;
          if (result[m * N + n] !== sum) return "they multiply wrongly";
        }
      }
    } catch (error) {
      if (error instanceof EngineError) return error.message;
      throw error;
    } finally {
      [a, b, out].forEach((variable) => engine.free(variable));
    }
  }
}

/** Numbers from −5 to 5, which f16 holds and f32 adds up exactly. */
const wholeNumbers = (count: number, step: number) =>
  Float32Array.from({ length: count }, (_, i) => i * step % 11 - 5);
