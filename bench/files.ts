/**
 * Models of real sizes through inspect, merge and the start of training, each in a process of its own: seconds and peak memory. The
 * models are files with holes, so they take no room; what a merge writes does, for a while.
 *
 *     deno task bench:files [--only pth|shards] [--scale 1]
 *
 * @module
 */
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import { join } from "node:path";
import { worldSizes, writeHollowShards, writeHollowTorch } from "../tests/hollow_model.ts";

const { values } = parseArgs({
  options: { only: { type: "string" }, scale: { type: "string", default: "1" } },
});
/** Channels are divided by it, for a machine that is short of memory. */
const scale = Number(values.scale);
const scaled = (channels: number) => Math.max(64, Math.round(channels / scale / 64) * 64);
const MODELS = [
  { kind: "pth", name: "1.5B .pth", config: worldSizes(24, scaled(2048)), file: "model.pth" },
  {
    kind: "shards",
    name: "2.9B in shards",
    config: worldSizes(32, scaled(2560)),
    file: "model.safetensors.index.json",
  },
];

const mod = JSON.stringify(new URL("../mod.ts", import.meta.url).href);
const at = (path: string) => JSON.stringify(new URL(path, import.meta.url).href);
/** What each process does; `folder` holds the model. */
const WORK: Record<string, string> = {
  inspect: `
    const { inspect } = await import(${mod});
    inspect(model);`,
  "adapter made": `
    const { openTensorFile } = await import(${at("../formats/tensor_file.ts")});
    const { readModelConfig, fingerprint } = await import(${at("../rwkv/model.ts")});
    const { newAdapter } = await import(${at("../adapters/adapter.ts")});
    const { saveAdapter } = await import(${at("../adapters/file.ts")});
    const { adapterMethod } = await import(${at("../adapters/registry.ts")});
    await import(${mod});
    using file = openTensorFile(model);
    const config = readModelConfig(file);
    const adapter = newAdapter({ config, file, fingerprint: fingerprint(file) }, adapterMethod("bone"), {
      settings: { r: 8 }, trainParts: [], noise: { normal: () => 0, uniform: () => 0 },
    });
    for (const { data } of adapter.tensors.values()) data.forEach((_, i) => data[i] = Math.sin(i) / 1000);
    saveAdapter(adapter, folder + "/adapter.safetensors");`,
  merge: `
    const { mergeAdapter } = await import(${mod});
    await mergeAdapter({ base: model, adapter: folder + "/adapter.safetensors", output: folder + "/merged.safetensors", engine: "cpu" });`,
  "start of training": `
    const { train } = await import(${mod});
    await train({
      loadModel: model, dataFile: folder + "/text.jsonl", vocab: folder + "/vocab.txt", projDir: folder + "/run", engine: "cpu",
      ctxLen: 16, microBsz: 1, boneConfig: { bone_r: 8 }, maxSteps: 1, heldOut: 0, samplePrompt: "",
    });`,
};

/** Runs one piece of work in a process of its own. */
function measure(work: string, folder: string, model: string): { seconds: number; peak: number } {
  const script = `
    import process from "node:process";
    const [folder, model] = Deno.args, started = performance.now();
    {${work}}
    const seconds = (performance.now() - started) / 1000;
    console.log(JSON.stringify({ seconds, peak: process.resourceUsage().maxRSS * 1024 }));
    Deno.exit(0);`;
  const { success, stdout } = new Deno.Command("deno", {
    args: [
      "eval",
      "--config",
      fileURLToPath(new URL("../deno.json", import.meta.url)),
      script,
      folder,
      model,
    ],
    stderr: "inherit",
  }).outputSync();
  if (!success) throw new Error(`It failed on ${model}`);
  return JSON.parse(new TextDecoder().decode(stdout).trim().split("\n").at(-1)!);
}

for (const { kind, name, config, file } of MODELS) {
  if (values.only !== undefined && values.only !== kind) continue;
  const folder = Deno.makeTempDirSync({ prefix: "wishbone-large-" });
  try {
    const model = join(folder, file);
    const bytes = kind === "pth" ? writeHollowTorch(model, config) : writeHollowShards(model, config, 2e9);
    Deno.writeTextFileSync(join(folder, "text.jsonl"), `{"text":"${"some words ".repeat(20)}"}\n`.repeat(4));
    const lines = Array.from(
      { length: 256 },
      (_, byte) => `${byte + 1} b'\\x${byte.toString(16).padStart(2, "0")}' 1\n`,
    );
    Deno.writeTextFileSync(join(folder, "vocab.txt"), lines.join(""));
    console.log(`${name}, ${(bytes / 1e9).toFixed(2)} GB`);
    for (const [what, work] of Object.entries(WORK)) {
      const { seconds, peak } = measure(work, folder, model);
      console.log(
        `  ${what.padEnd(18)} ${seconds.toFixed(1).padStart(7)} s, peak memory ${
          (peak / 1e9).toFixed(2)
        } GB, ` +
          `${(peak / bytes).toFixed(2)} of the file`,
      );
    }
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}
