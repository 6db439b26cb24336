/**
 * Fetching files of the Hugging Face Hub, from a server on the loopback device that answers as the Hub does.
 *
 * @module
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { fetchFromHub, hubPath, localPath } from "../formats/hub.ts";
import { loadModel, train } from "../mod.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

const CONTENT = Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7919) >> 3);
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

interface Served {
  readonly content: Uint8Array<ArrayBuffer>;
  readonly etag?: string;
}

/** What the server does besides answering. */
interface Behaviour {
  /** Breaks the connection after so many bytes of a body. */
  breakAfter?: number;
  status?: number;
}

/** Runs `body` with a Hub that has these files, by owner/repo/revision/path. */
async function withHub(
  files: Record<string, Served>,
  body: (hub: { hubUrl: string; folder: string; requests: string[]; behaviour: Behaviour }) => Promise<void>,
): Promise<void> {
  const requests: string[] = [], behaviour: Behaviour = {};
  const folder = newPath("hub");
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, (request) => {
    const { pathname } = new URL(request.url), range = request.headers.get("range");
    requests.push(`${pathname} ${range} ${request.headers.get("authorization")}`);
    if (behaviour.status) return new Response("", { status: behaviour.status });
    const [, owner, repo, , revision, ...path] = pathname.split("/");
    const found = files[[owner, repo, revision, ...path].join("/")];
    if (!found) return new Response("", { status: 404, headers: { "X-Error-Code": "EntryNotFound" } });
    const { content, etag = sha256(content) } = found;
    const [, from = "0", to = ""] = /bytes=(\d+)-(\d*)/.exec(range ?? "") ?? [];
    const end = to ? Math.min(Number(to) + 1, content.length) : content.length;
    const part = content.slice(Number(from), end);
    const headers = {
      "ETag": `"${etag}"`,
      "Content-Length": String(part.length),
      ...(range ? { "Content-Range": `bytes ${from}-${end - 1}/${content.length}` } : {}),
    };
    const { breakAfter = Infinity } = behaviour;
    if (part.length <= breakAfter) return new Response(part, { status: range ? 206 : 200, headers });
    const broken = new ReadableStream({
      async start(controller) {
        controller.enqueue(part.subarray(0, breakAfter));
        await new Promise((later) => setTimeout(later, 100));
        controller.error(new Error("broken off"));
      },
    });
    return new Response(broken, { status: range ? 206 : 200, headers });
  });
  try {
    await body({ hubUrl: `http://127.0.0.1:${server.addr.port}`, folder, requests, behaviour });
  } finally {
    await server.shutdown();
  }
}

/** Deno complains of the error that the server's broken answer is. */
const quiet = { sanitizeOps: false, sanitizeResources: false };

Deno.test(
  "fetchFromHub + a file: the size is asked for first, then it is fetched, and never again",
  quiet,
  async () => {
    const name = "hf:owner/repo.x/folder/model.pth";
    await withHub({ "owner/repo.x/main/folder/model.pth": { content: CONTENT } }, async (hub) => {
      const asked: unknown[] = [];
      const options = { ...hub, accessToken: "hf_secret" };
      const declined = await fetchFromHub(name, { ...options, confirm: (file) => (asked.push(file), false) });
      const path = join(hub.folder, "owner", "repo.x", "folder", "model.pth");
      assert.deepEqual([declined, existsSync(path)], [undefined, false]);
      assert.deepEqual(asked, [{ name, path, bytes: CONTENT.length, have: 0 }]);
      assert.throws(
        () => localPath(name, hub.folder),
        /is not on this machine yet, .*: deno task fetch --load_model hf:/,
      );

      const progress: number[] = [];
      const fetched = await fetchFromHub(name, { ...options, onProgress: (bytes) => progress.push(bytes) });
      assert.equal(fetched, path);
      assert.deepEqual(Deno.readFileSync(path), CONTENT);
      assert.equal(progress.at(-1), CONTENT.length);
      assert.ok(hub.requests.every((request) => request.endsWith("Bearer hf_secret")));
      assert.deepEqual([...Deno.readDirSync(join(path, ".."))].map(({ name }) => name), ["model.pth"]);

      const before = hub.requests.length;
      assert.equal(await fetchFromHub(name, options), path);
      assert.equal(hub.requests.length, before);
      assert.equal(localPath(name, hub.folder), path);
      assert.equal(localPath("model.pth", hub.folder), "model.pth");
    });
  },
);

Deno.test(
  "fetchFromHub + a download that broke off goes on where it was; of changed content it begins again",
  quiet,
  async () => {
    const files: Record<string, Served> = { "o/r/v1/m.pth": { content: CONTENT } };
    await withHub(files, async (hub) => {
      const name = "hf:o/r@v1/m.pth";
      hub.behaviour.breakAfter = 100_000;
      await assert.rejects(
        fetchFromHub(name, hub),
        /The download of hf:o\/r@v1\/m\.pth broke off after \d+ of 300000/,
      );
      const path = hubPath(name, hub.folder), have = Deno.statSync(`${path}.part`).size;
      assert.ok(!existsSync(path) && have > 0 && have <= 100_000, `${have}`);
      delete hub.behaviour.breakAfter;
      let asked = 0;
      await fetchFromHub(name, { ...hub, confirm: ({ have }) => ((asked = have), true) });
      assert.equal(asked, have);
      assert.ok(hub.requests.at(-1)!.includes(`bytes=${have}-`), hub.requests.at(-1)!);
      assert.deepEqual(Deno.readFileSync(path), CONTENT);

      Deno.removeSync(path);
      hub.behaviour.breakAfter = 100_000;
      await assert.rejects(fetchFromHub(name, hub), /broke off/);
      delete hub.behaviour.breakAfter;
      const changed = CONTENT.map((byte) => byte ^ 1);
      files["o/r/v1/m.pth"] = { content: changed };
      await fetchFromHub(name, { ...hub, confirm: ({ have }) => ((asked = have), true) });
      assert.equal(asked, 0);
      assert.deepEqual(Deno.readFileSync(path), changed);
    });
  },
);

Deno.test("fetchFromHub + content that is not what the Hub says: refused and removed", quiet, async () => {
  await withHub({ "o/r/main/m.pth": { content: CONTENT, etag: sha256(new Uint8Array(1)) } }, async (hub) => {
    await assert.rejects(
      fetchFromHub("hf:o/r/m.pth", hub),
      /does not match the Hub's SHA-256, so it was removed/,
    );
    assert.deepEqual([...Deno.readDirSync(join(hub.folder, "o", "r"))], []);
  });
});

Deno.test(
  "fetchFromHub + no such file, no permission, no server, no network: one sentence",
  quiet,
  async () => {
    await withHub({}, async (hub) => {
      await assert.rejects(fetchFromHub("hf:o/r/m.pth", hub), {
        name: "HubError",
        message: "There is no m.pth in o/r at main on the Hub: check the name",
      });
      hub.behaviour.status = 401;
      await assert.rejects(
        fetchFromHub("hf:o/r/m.pth", hub),
        /does not give out hf:o\/r\/m\.pth: .* HF_TOKEN$/,
      );
      hub.behaviour.status = 503;
      await assert.rejects(
        fetchFromHub("hf:o/r/m.pth", hub),
        /The Hub answered 503 for hf:o\/r\/m\.pth: try again later/,
      );
    });
    await assert.rejects(
      fetchFromHub("hf:o/r/m.pth", { hubUrl: "http://127.0.0.1:1", folder: newPath("hub") }),
      /^HubError: Cannot reach 127\.0\.0\.1:1 for hf:o\/r\/m\.pth: check the network, or give a file that is on this/,
    );
  },
);

Deno.test("hubPath + names that lead elsewhere or are none: refused", () => {
  for (
    const name of [
      "hf:",
      "hf:o/r",
      "hf:o/r/",
      "hf:o/r/../../x",
      "hf:../r/x",
      "hf:o/r@../x",
      "hf:o/r//x",
      "hf:o/r/a\\b",
      "hf:o/r@/x",
      "hf:o/r/./x",
      "hf:o/r/x?y",
    ]
  ) {
    assert.throws(() => hubPath(name), { name: "HubError", message: /write hf:owner\/repo\/file/ }, name);
  }
  assert.notEqual(hubPath("hf:o/r/x"), hubPath("hf:o/r@main2/x"));
  assert.equal(hubPath("hf:o/r/x"), hubPath("hf:o/r@main/x"));
});

Deno.test("loadModel and train + a name of the Hub that was not fetched: one sentence", async () => {
  await assert.rejects(loadModel("hf:o/r/m.pth"), { name: "HubError", message: /not on this machine yet/ });
  await assert.rejects(train({ loadModel: "hf:o/r/m.pth", dataFile: "x" }), { name: "HubError" });
});

Deno.test(
  "fetch and generate as commands: fetched with --yes, used by its name, and refused without",
  quiet,
  async () => {
    const model = Deno.readFileSync(writeTinyModel(newPath("model.safetensors")));
    const root = fileURLToPath(new URL("..", import.meta.url));
    const owner = `wishbone-test-${crypto.randomUUID().slice(0, 8)}`,
      name = `hf:${owner}/repo/model.safetensors`;
    const run = async (permissions: string[], script: string, ...args: string[]) => {
      const { code, stdout, stderr } = await new Deno.Command("deno", {
        args: ["run", "--no-prompt", "--allow-read", ...permissions, `scripts/${script}.ts`, ...args],
        cwd: root,
        env: { NO_COLOR: "1" },
      }).output();
      return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
    };
    const index = new TextEncoder().encode(
      JSON.stringify({ weight_map: { a: "x.safetensors", b: "x.safetensors" } }),
    );
    const files = {
      [`${owner}/repo/main/model.safetensors`]: { content: model },
      [`${owner}/repo/main/many/m.safetensors.index.json`]: { content: index, etag: "a1b2" },
      [`${owner}/repo/main/many/x.safetensors`]: { content: model },
    };
    await withHub(files, async ({ hubUrl }) => {
      const allowed = ["--allow-write=models", `--allow-net=${new URL(hubUrl).host}`];
      const flags = ["--load_model", name, "--hub_url", hubUrl];
      try {
        const unasked = await run(allowed, "fetch", ...flags);
        assert.deepEqual([unasked.code, unasked.stdout], [2, ""]);
        assert.match(
          unasked.stderr,
          /model\.safetensors is \d+\.\d kB, and goes to .*\. Say --yes to fetch it\n$/,
        );
        const early = await run([], "generate", "--load_model", name);
        assert.deepEqual([early.code, early.stdout], [2, ""]);
        assert.match(early.stderr, /is not on this machine yet, .*: deno task fetch --load_model hf:/);
        const fetched = await run(allowed, "fetch", ...flags, "--yes");
        assert.equal(fetched.code, 0, fetched.stderr);
        assert.match(fetched.stdout, /^hf:.* is here: .*model\.safetensors\n$/);
        const text = await run([], "generate", "--load_model", name, "--engine", "cpu", "--tokens", "3");
        assert.equal(text.code, 0, text.stderr);
        const several = `hf:${owner}/repo/many/m.safetensors.index.json`;
        const brought = await run(allowed, "fetch", "--load_model", several, "--hub_url", hubUrl, "--yes");
        assert.equal(brought.code, 0, brought.stderr);
        assert.match(
          brought.stdout,
          /m\.safetensors\.index\.json is here: .*\nhf:.*\/many\/x\.safetensors is here: .*\n$/,
        );
      } finally {
        await Deno.remove(join(root, "models", owner), { recursive: true }).catch(() => {});
      }
    });
    const forbidden = await run(["--allow-write=models"], "fetch", "--load_model", name, "--yes");
    assert.deepEqual([forbidden.code, forbidden.stdout], [2, ""]);
    assert.match(forbidden.stderr, /^(This command may not use the network|Cannot reach huggingface\.co)/);
  },
);
