/**
 * Memory and time of merging a model far larger than the memory that it takes: a base of zeros on disk (a file with holes, so it takes
 * no room) with a Bone adapter of rank 64, merged in a process of its own with all checks.
 *
 *     deno task bench:merge [--layers 32] [--channels 2560] [--peft bone]
 *
 * @module
 */
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import { join } from "node:path";
import { adapterMethod } from "../adapters/registry.ts";
import { Adapter } from "../adapters/adapter.ts";
import { saveAdapter } from "../adapters/file.ts";
import { fromFloat32 } from "../formats/dtype.ts";
import { openTensorFile } from "../formats/tensor_file.ts";
import { fingerprint } from "../rwkv/model.ts";
import { linearSites, type ModelConfig, weightShapes } from "../rwkv/config.ts";

const { values } = parseArgs({
  options: {
    layers: { type: "string", default: "32" },
    channels: { type: "string", default: "2560" },
    peft: { type: "string", default: "bone" },
  },
});
const layers = Number(values.layers), channels = Number(values.channels);
const config: ModelConfig = {
  version: 7,
  layers,
  channels,
  heads: channels / 64,
  headSize: 64,
  ffn: 4 * channels,
  vocabulary: 65536,
  ranks: { w: 96, a: 96, v: 64, g: 320 },
  firstLayerHasV: false,
};

/** A base of zeros: the header, and a length. Norms and vectors are not zero, as no model's are. */
function writeHollow(path: string): number {
  let end = 0;
  const entries = [...weightShapes(config)].map(([name, shape]) => {
    const begin = end, count = shape.reduce((a, b) => a * b, 1);
    end += 2 * count;
    return { name, shape, begin, end, count };
  });
  const json = JSON.stringify(
    Object.fromEntries(
      entries.map((
        { name, shape, begin, end },
      ) => [name, { dtype: "BF16", shape, data_offsets: [begin, end] }]),
    ),
  );
  const header = new TextEncoder().encode(json.padEnd(Math.ceil(json.length / 8) * 8));
  using file = Deno.openSync(path, { write: true, createNew: true });
  file.writeSync(new Uint8Array(new BigUint64Array([BigInt(header.length)]).buffer));
  file.writeSync(header);
  file.truncateSync(8 + header.length + end);
  for (const { name, begin, count } of entries) {
    if (!/ln.*weight$|\.(k_k|r_k)$/.test(name)) continue;
    file.seekSync(8 + header.length + begin, Deno.SeekMode.Start);
    file.writeSync(fromFloat32(new Float32Array(count).fill(1), "BF16"));
  }
  return end;
}

const folder = Deno.makeTempDirSync({ prefix: "wishbone-merge-" });
try {
  const base = join(folder, "base.safetensors"), adapter = join(folder, "adapter.safetensors");
  const bytes = writeHollow(base);
  const method = adapterMethod(values.peft), settings = method.configure({});
  const tensors = linearSites(config).flatMap((site) =>
    Object.entries(method.parameters(site, settings)).map(([name, { shape }]) => {
      const data = Float32Array.from(
        { length: shape.reduce((a, b) => a * b, 1) },
        (_, i) => Math.sin(i) / 100,
      );
      return [`${site.name}.${name}`, { shape, data }] as const;
    })
  );
  using file = openTensorFile(base);
  saveAdapter(new Adapter(method, settings, new Map(tensors), fingerprint(file)), adapter);
  const script = `
    import process from "node:process";
    import { mergeAdapter } from ${JSON.stringify(new URL("../mod.ts", import.meta.url).href)};
    const [base, adapter, output] = Deno.args, started = performance.now();
    const { extent, largestDifference, relativeError } = await mergeAdapter({ base, adapter, output, engine: "cpu" });
    const seconds = (performance.now() - started) / 1000;
    console.log(JSON.stringify({ extent, largestDifference, relativeError, seconds, peak: process.resourceUsage().maxRSS * 1024 }));`;
  for (const name of ["merged.safetensors", "merged.pth"]) {
    const output = join(folder, name);
    const child = new Deno.Command("deno", {
      args: [
        "eval",
        "--config",
        fileURLToPath(new URL("../deno.json", import.meta.url)),
        script,
        base,
        adapter,
        output,
      ],
      stderr: "inherit",
    }).outputSync();
    if (!child.success) throw new Error(`Merging failed with code ${child.code}`);
    const { extent, largestDifference, relativeError, seconds, peak } = JSON.parse(
      new TextDecoder().decode(child.stdout),
    );
    console.log(
      `${values.peft} into ${name.padEnd(18)} base ${(bytes / 1e9).toFixed(2)} GB: ${
        seconds.toFixed(0)
      } s, peak memory ` +
        `${(peak / 1e9).toFixed(2)} GB; ${extent} differ by at most ${
          largestDifference.toPrecision(2)
        }, relative ${relativeError.toExponential(1)}`,
    );
    Deno.removeSync(output);
  }
} finally {
  Deno.removeSync(folder, { recursive: true });
}
