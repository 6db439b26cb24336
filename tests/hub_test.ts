/**
 * Fetching files of the Hugging Face Hub, from a server on the loopback device that answers as the Hub does.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fetchFromHub, hubPath, localPath, lookUp } from "../formats/hub.ts";
import { loadModel, train } from "../mod.ts";
import { CONTENT, quiet, type Served, sha256, withHub } from "./hub_server.ts";
import { newPath } from "./tiny_model.ts";

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
        /is not on this machine yet: fetch it with deno task fetch --load_model hf:/,
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
      /does not match its SHA-256, so it was removed/,
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
  // Else what there is of a download that was cut off would be taken for a file of that name.
  for (const name of ["hf:o/r/m.pth.part", "hf:o/r/m.pth.part.json"]) {
    assert.throws(() => hubPath(name), { name: "HubError", message: /downloads that were cut off/ }, name);
  }
  assert.notEqual(hubPath("hf:o/r/x"), hubPath("hf:o/r@main2/x"));
  assert.equal(hubPath("hf:o/r/x"), hubPath("hf:o/r@main/x"));
});

Deno.test("loadModel and train + a name of the Hub that was not fetched: one sentence", async () => {
  await assert.rejects(loadModel("hf:o/r/m.pth"), { name: "HubError", message: /not on this machine yet/ });
  await assert.rejects(train({ loadModel: "hf:o/r/m.pth", dataFile: "x" }), { name: "HubError" });
});

Deno.test(
  "fetchFromHub + an answer that ends early without an error: what has arrived is gone on from",
  quiet,
  async () => {
    await withHub({ "o/r/main/m.pth": { content: CONTENT } }, async (hub) => {
      hub.behaviour.endAfter = 70_000;
      await assert.rejects(
        fetchFromHub("hf:o/r/m.pth", hub),
        /broke off after 70000 of 300000 bytes: the same command/,
      );
      delete hub.behaviour.endAfter;
      const path = await fetchFromHub("hf:o/r/m.pth", hub);
      assert.ok(hub.requests.at(-1)!.includes("bytes=70000-"), hub.requests.at(-1)!);
      assert.deepEqual(Deno.readFileSync(path!), CONTENT);
    });
  },
);

Deno.test(
  "fetchFromHub + more bytes than were said, whether or not their hash is known: refused and removed",
  quiet,
  async () => {
    for (const etag of [sha256(CONTENT), "a1b2"]) {
      await withHub({ "o/r/main/m.pth": { content: CONTENT, etag } }, async (hub) => {
        hub.behaviour.tooMany = 10;
        await assert.rejects(
          fetchFromHub("hf:o/r/m.pth", hub),
          /is 3000\d\d bytes and not 300000, so it was removed/,
        );
        assert.deepEqual([...Deno.readDirSync(join(hub.folder, "o", "r"))], []);
      });
    }
  },
);

Deno.test("fetchFromHub + a hash that is known beforehand: nothing else is taken", quiet, async () => {
  await withHub({ "o/r/main/v.txt": { content: CONTENT, etag: "a1b2" } }, async (hub) => {
    const options = { ...hub, sha256: sha256(new Uint8Array(1)) };
    await assert.rejects(fetchFromHub("hf:o/r/v.txt", options), /does not match its SHA-256/);
    assert.ok(await fetchFromHub("hf:o/r/v.txt", { ...hub, sha256: sha256(CONTENT) }));
  });
});

Deno.test("lookUp + a file: its size and what is here of it, and nothing is fetched", quiet, async () => {
  await withHub({ "o/r/main/m.pth": { content: CONTENT } }, async (hub) => {
    const name = "hf:o/r/m.pth", path = hubPath(name, hub.folder);
    assert.deepEqual(await lookUp(name, hub), { name, path, bytes: CONTENT.length, have: 0 });
    hub.behaviour.endAfter = 1000;
    await assert.rejects(fetchFromHub(name, hub));
    assert.equal((await lookUp(name, hub)).have, 1000);
    await assert.rejects(lookUp("hf:o/r/other", hub), { name: "HubError" });
  });
});

Deno.test("fetchFromHub + a server that is no Hub: one sentence", quiet, async () => {
  const server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen: () => {} },
    () => new Response("Welcome"),
  );
  try {
    const hubUrl = `http://127.0.0.1:${server.addr.port}`;
    await assert.rejects(
      fetchFromHub("hf:o/r/m.pth", { hubUrl, folder: newPath("hub") }),
      /^HubError: What 127\.0\.0\.1:\d+ answers for hf:o\/r\/m\.pth is not what the Hub says of a file/,
    );
  } finally {
    await server.shutdown();
  }
});
