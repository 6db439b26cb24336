/**
 * Commands that are given names of the Hugging Face Hub: what they fetch, what they ask, and what they may do afterwards.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { quiet, type Served, withHub } from "./hub_server.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const WORLD = fileURLToPath(new URL("../../shared/assets/rwkv_vocab_v20230424.txt", import.meta.url));
const WORLD_FOLDER = join(ROOT, "models", "RWKV", "v5-Eagle-7B-HF");
const VOCABULARY = "RWKV/v5-Eagle-7B-HF/main/rwkv_vocab_v20230424.txt";

/** Runs a script with the permissions given, and with neither terminal nor answers. */
async function run(permissions: readonly string[], script: string, ...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command("deno", {
    args: [
      "run",
      "--no-prompt",
      "--allow-read",
      "--ignore-env=LOG_TOKENS,LOG_STREAM",
      ...permissions,
      script,
      ...args,
    ],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
  }).output();
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

interface Place {
  /** Of the repository whose files the Hub has: the models of other tests lie beside. */
  readonly owner: string;
  /** What it has, by owner/repo/revision/path. */
  readonly files: Record<string, Served>;
  readonly requests: string[];
  /** What a task is granted of the network, were this the Hub. */
  readonly allowed: readonly string[];
  readonly hub: readonly string[];
  readonly behaviour: { redirect?: string; status?: number };
}

/** A Hub with files of one owner, whose fetched files are removed in the end. */
async function withOwner(
  files: Record<string, Uint8Array<ArrayBuffer> | Served>,
  body: (place: Place) => Promise<void>,
) {
  const owner = `wishbone-test-${crypto.randomUUID().slice(0, 8)}`;
  const served = Object.entries(files).map(([path, file]) =>
    [
      path.includes("/main/") ? path : `${owner}/repo/main/${path}`,
      file instanceof Uint8Array ? { content: file } : file,
    ] as const
  );
  const all: Record<string, Served> = Object.fromEntries(served);
  try {
    await withHub(all, async ({ hubUrl, requests, behaviour }) => {
      const allowed = ["--allow-write=models", `--allow-net=${new URL(hubUrl).host}`];
      await body({ owner, files: all, requests, allowed, hub: ["--hub_url", hubUrl], behaviour });
    });
  } finally {
    await Deno.remove(join(ROOT, "models", owner), { recursive: true }).catch(() => {});
  }
}

const tiny = () => Deno.readFileSync(writeTinyModel(newPath("model.safetensors")));

Deno.test(
  "generate + a name of the Hub: asks without --yes, fetches with it, and needs no network ever after",
  quiet,
  async () => {
    await withOwner({ "model.safetensors": tiny() }, async ({ owner, requests, allowed, hub }) => {
      const name = `hf:${owner}/repo/model.safetensors`;
      const path = join(ROOT, "models", owner, "repo", "model.safetensors");
      const flags = ["--load_model", name, "--engine", "cpu", "--tokens", "3", "--prompt", "a"];
      const unasked = await run(allowed, "scripts/generate.ts", ...flags, ...hub);
      assert.deepEqual([unasked.code, unasked.stdout], [2, ""]);
      assert.match(
        unasked.stderr,
        /^hf:.*model\.safetensors is \d+\.\d kB, and goes to .*model\.safetensors: say --yes to fetch \d+\.\d kB from 127\.0\.0\.1:\d+\n$/,
      );
      assert.ok(!existsSync(path));
      const fetched = await run(allowed, "scripts/generate.ts", ...flags, ...hub, "--yes");
      assert.equal(fetched.code, 0, fetched.stderr);
      assert.match(fetched.stderr, /^hf:.* is \d+\.\d kB, and goes to .*\nhf:.*: (\d+\.\d kB) of \1\n/);
      assert.deepEqual(Deno.readFileSync(path), tiny());
      const before = requests.length;
      const again = await run([], "scripts/generate.ts", ...flags);
      assert.deepEqual([again.code, again.stdout], [0, fetched.stdout]);
      assert.equal(requests.length, before);
    });
  },
);

Deno.test(
  "run_bone, merge_bone, evaluate and inspect + names of the Hub, also from --config: fetched, and used",
  quiet,
  async () => {
    const content = tiny();
    const models = Object.fromEntries(["a", "b", "c", "d"].map((name) => [`${name}.safetensors`, content]));
    await withOwner(models, async ({ owner, files, allowed: [, net], hub }) => {
      const folder = newPath("hub runs"), text = join(folder, "text.jsonl"), proj = join(folder, "run");
      Deno.mkdirSync(folder);
      writeDocuments(text, randomTexts(20, 30));
      const config = join(folder, "run.yaml");
      Deno.writeTextFileSync(config, `load_model: hf:${owner}/repo/a.safetensors\nyes: true\n`);
      const writes = ["--allow-write", net!];
      const run_ = async (script: string, ...args: string[]) => {
        const { code, stdout, stderr } = await run(writes, `scripts/${script}.ts`, ...args, ...hub);
        assert.equal(code, 0, stderr);
        return stdout;
      };
      const short = [
        "--ctx_len",
        "16",
        "--micro_bsz",
        "2",
        "--max_steps",
        "1",
        "--engine",
        "cpu",
        "--train_parts",
        "[]",
      ];
      const rank = ["--bone_config", '{"bone_r":4}'];
      await run_(
        "run_bone",
        "--config",
        config,
        "--data_file",
        text,
        "--proj_dir",
        proj,
        ...short,
        ...rank,
        "--sample_prompt",
      );
      const adapter = join(proj, "adapter.pth"), merged = join(folder, "merged.safetensors");
      const base = ["--base_model", `hf:${owner}/repo/b.safetensors`, "--yes"];
      await run_("merge_bone", ...base, "--lora_checkpoint", adapter, "--output", merged, "--engine", "cpu");
      assert.ok(existsSync(merged));
      files[`${owner}/repo/main/adapter.pth`] = { content: Deno.readFileSync(adapter) };
      const from = JSON.stringify({ bone_load: `hf:${owner}/repo/adapter.pth`, bone_r: 4 });
      const again = [
        ...short,
        "--bone_config",
        from,
        "--load_model",
        `hf:${owner}/repo/a.safetensors`,
        "--yes",
      ];
      await run_(
        "run_bone",
        ...again,
        "--data_file",
        text,
        "--proj_dir",
        join(folder, "again"),
        "--sample_prompt",
      );
      const model = ["--load_model", `hf:${owner}/repo/c.safetensors`, "--yes", "--engine", "cpu"];
      assert.match(await run_("evaluate", ...model, "--data_file", text, "--limit", "2"), /^Perplexity: /);
      assert.match(await run_("inspect", `hf:${owner}/repo/d.safetensors`, "--yes"), /Model: +RWKV-7/);
    });
  },
);

Deno.test(
  "fetch + the index of a model in several files, or half of a PEFT adapter: the rest comes along, asked for at once",
  quiet,
  async () => {
    const index = new TextEncoder().encode(
      JSON.stringify({ weight_map: { a: "x.safetensors", b: "y.safetensors", c: "x.safetensors" } }),
    );
    const files = {
      "m/m.safetensors.index.json": { content: index, etag: "a1b2" },
      "m/x.safetensors": tiny(),
      "m/y.safetensors": tiny(),
      "p/adapter_config.json": { content: index, etag: "c3d4" },
      "p/adapter_model.safetensors": tiny(),
    };
    await withOwner(files, async ({ owner, allowed, hub }) => {
      const fetch = (...args: string[]) => run(allowed, "scripts/fetch.ts", ...args, ...hub);
      const several = await fetch("--load_model", `hf:${owner}/repo/m/m.safetensors.index.json`, "--yes");
      assert.equal(several.code, 0, several.stderr);
      assert.match(
        several.stdout,
        /index\.json is here: .*\nhf:.*\/m\/x\.safetensors is here: .*\nhf:.*\/m\/y\.safetensors is/,
      );
      assert.match(several.stderr, /x\.safetensors is .*; hf:.*y\.safetensors is /);
      const half = await fetch("--load_model", `hf:${owner}/repo/p/adapter_config.json`, "--yes");
      assert.match(half.stdout, /adapter_config\.json is here: .*\nhf:.*adapter_model\.safetensors is here/);
    });
  },
);

Deno.test("fetch + what cannot be had: one sentence and code 2, nothing left of it", quiet, async () => {
  await withOwner({ "model.safetensors": tiny() }, async ({ owner, allowed, hub, behaviour }) => {
    const name = `hf:${owner}/repo/model.safetensors`;
    const refused = async (permissions: readonly string[], ...args: string[]) => {
      const { code, stdout, stderr } = await run(permissions, "scripts/fetch.ts", ...args, "--yes");
      assert.deepEqual([code, stdout], [2, ""], stderr);
      assert.ok(!existsSync(join(ROOT, "models", owner, "repo", "model.safetensors")));
      return stderr.trimEnd().split("\n").at(-1)!;
    };
    assert.match(
      await refused(allowed, "--load_model", `hf:${owner}/repo/other.pth`, ...hub),
      /^There is no other\.pth in/,
    );
    behaviour.status = 403;
    assert.match(
      await refused(allowed, "--load_model", name, ...hub),
      /^The Hub does not give out hf:.* HF_TOKEN$/,
    );
    delete behaviour.status;
    assert.match(
      await refused(["--allow-write=models"], "--load_model", name, ...hub),
      /^Deno does not permit this command to reach 127\.0\.0\.1:\d+ for hf:/,
    );
    behaviour.redirect = `http://localhost:${new URL(hub[1]!).port}`;
    assert.match(
      await refused(allowed, "--load_model", name, ...hub),
      /^Deno does not permit this command to reach localhost:\d+ for hf:/,
    );
    delete behaviour.redirect;
    const nobody = ["--hub_url", "http://127.0.0.1:1"], net = "--allow-net=127.0.0.1:1";
    assert.match(
      await refused(["--allow-write=models", net], "--load_model", name, ...nobody),
      /^Cannot reach 127\.0\.0\.1:1 for hf:.*: check the network, or give a file that is on this machine$/,
    );
    assert.equal(await refused(allowed), "Say what to fetch: --load_model hf:owner/repo/file");
    assert.equal(
      await refused(allowed, "--load_model", name, "--vocab", "v.txt", ...hub),
      "v.txt is no name of the Hub: those begin with hf:",
    );
  });
});

Deno.test(
  "generate + a World model of the Hub without --vocab: the World vocabulary comes with it, and nothing else under its name",
  {
    ...quiet,
    // Where it is at home already, it would be taken from there.
    ignore: existsSync(join(WORLD_FOLDER, "rwkv_vocab_v20230424.txt")),
  },
  async () => {
    const model = writeTinyModel(newPath("world.safetensors"), {
      vocabulary: 65536,
      channels: 8,
      dtype: "BF16",
    });
    const served: Record<string, Served> = {
      [VOCABULARY]: { content: new TextEncoder().encode("1 'a' 1\n"), etag: "a1b2" },
    };
    const files = { "world.safetensors": Deno.readFileSync(model), ...served };
    await withOwner(files, async ({ owner, allowed, hub, requests }) => {
      const flags = [
        "--load_model",
        `hf:${owner}/repo/world.safetensors`,
        "--engine",
        "cpu",
        "--tokens",
        "3",
        "--yes",
      ];
      const wrong = await run(allowed, "scripts/generate.ts", ...flags, ...hub);
      assert.deepEqual([wrong.code, wrong.stdout], [2, ""]);
      assert.match(
        wrong.stderr,
        /What arrived of hf:RWKV\/.*txt does not match its SHA-256, so it was removed: fetch it again\n$/,
      );
      // A vocabulary beside the model is taken, and none is looked for.
      const beside = join(ROOT, "models", owner, "repo", "rwkv_vocab_v20230424.txt"),
        before = requests.length;
      Deno.writeTextFileSync(beside, "1 'a' 1\n");
      const own = await run(allowed, "scripts/generate.ts", ...flags, ...hub);
      assert.deepEqual([own.code, requests.length], [2, before]);
      assert.match(own.stderr, /\nThe vocabulary .*txt has no token for the single byte 0, [^\n]*\n$/);
    });
    Deno.removeSync(WORLD_FOLDER, { recursive: true });
    if (!existsSync(WORLD)) return;
    const real = { ...files, [VOCABULARY]: { content: Deno.readFileSync(WORLD), etag: "a1b2" } };
    try {
      await withOwner(real, async ({ owner, allowed, hub }) => {
        const name = `hf:${owner}/repo/world.safetensors`;
        const fetched = await run(allowed, "scripts/fetch.ts", "--load_model", name, ...hub, "--yes");
        assert.match(fetched.stdout, /world\.safetensors is here: .*\nhf:RWKV\/.*txt is here: /);
        const text = await run(
          [],
          "scripts/generate.ts",
          "--load_model",
          name,
          "--engine",
          "cpu",
          "--tokens",
          "3",
        );
        assert.equal(text.code, 0, text.stderr);
      });
    } finally {
      Deno.removeSync(WORLD_FOLDER, { recursive: true });
    }
  },
);

Deno.test(
  "runCommand + a command that may use the network: gives it up before its work, whether something was fetched or not",
  quiet,
  async () => {
    await withOwner({ "model.safetensors": tiny() }, async ({ owner, requests, hub: [, hubUrl] }) => {
      const hosts = "huggingface.co,*.huggingface.co,*.hf.co,hf-mirror.com,*.hf-mirror.com,127.0.0.1";
      const allowed = [
        "--allow-write=models",
        `--allow-net=${hosts}`,
        "--allow-env=INIT_CWD,HF_TOKEN,HF_ENDPOINT",
      ];
      const probe = async (...args: string[]) => {
        const { code, stdout, stderr } = await run(allowed, "tests/hub_probe.ts", ...args);
        assert.equal(code, 0, stderr);
        return JSON.parse(stdout);
      };
      const up = { hub: ["prompt"], write: "prompt", token: "prompt", endpoint: "prompt", called: "granted" };
      const none = ["works", hubUrl!], named = [...none, `hf:${owner}/repo/model.safetensors`];
      assert.deepEqual(await probe(...none), { args: none, ...up, loopback: "prompt" });
      assert.equal(requests.length, 0);
      assert.deepEqual(await probe(...named), { args: named, ...up, loopback: "prompt" });
      assert.ok(requests.length > 0);
      assert.deepEqual(await probe("listens", hubUrl!), {
        args: ["listens", hubUrl],
        ...up,
        loopback: "granted",
      });
    });
  },
);
