/**
 * A command that is confined to the folder `inside`, and may read the file `named` and an index's folder `shards` besides. It tries to
 * read and write elsewhere in every way that Deno has: what it was refused is its output, as JSON from the attempt to the name of the
 * error, or "done". Its argument is the engine that it says it computes on. It stands in a folder that its test has made, and does
 * nothing anywhere else.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { runCommand } from "../scripts/command.ts";
import type { EngineChoice } from "../kernels/engines/choice.ts";

const attempts: Record<string, () => void> = {
  "write inside": () => Deno.writeTextFileSync("inside/new/file", "x"),
  "rename inside": () => Deno.renameSync("inside/new/file", "inside/new/other"),
  "read what was named": () => Deno.readTextFileSync("named"),
  "read a shard": () => Deno.readTextFileSync("shards/one.safetensors"),
  "look for a vocabulary beside": () => Deno.statSync("rwkv_vocab_v20230424.txt"),
  "read this program": () => Deno.readTextFileSync(new URL("../mod.ts", import.meta.url)),
  "read outside": () => Deno.readTextFileSync("outside/file"),
  "read through a way back": () => Deno.readTextFileSync("shards/../outside/file"),
  "list outside": () => [...Deno.readDirSync("outside")],
  "list where it stands": () => [...Deno.readDirSync(".")],
  "ask whether something is there": () => Deno.lstatSync("outside/file"),
  "see where something leads": () => Deno.realPathSync("outside/file"),
  "read a link": () => Deno.readLinkSync("outside/link"),
  "copy in": () => Deno.copyFileSync("outside/file", "inside/copy"),
  "link in": () => Deno.linkSync("outside/file", "inside/hard"),
  "read a list of users": () => Deno.readTextFileSync("/etc/passwd"),
  "read the process": () => Deno.readTextFileSync("/proc/self/environ"),
  "load native code": () => Deno.dlopen("libm.so.6", {}).close(),
  "write outside": () => Deno.writeTextFileSync("outside/file", "x"),
  "write through a way back": () => Deno.writeTextFileSync("inside/../outside/file", "x"),
  "open outside": () => Deno.openSync("outside/file", { write: true }).close(),
  "append outside": () => Deno.openSync("outside/file", { append: true }).close(),
  "make a folder outside": () => Deno.mkdirSync("outside/folder"),
  "remove outside": () => Deno.removeSync("outside/file"),
  "move out": () => Deno.renameSync("inside/new/other", "outside/other"),
  "move in": () => Deno.renameSync("outside/file", "inside/file"),
  "copy out": () => Deno.copyFileSync("inside/new/other", "outside/other"),
  "truncate outside": () => Deno.truncateSync("outside/file"),
  "link out": () => Deno.symlinkSync("../outside", "inside/link"),
  "hard link out": () => Deno.linkSync("outside/file", "inside/link"),
  "touch outside": () => Deno.utimeSync("outside/file", 0, 0),
  "write beside": () => Deno.writeTextFileSync("inside-2", "x"),
  "listen": () => Deno.listen({ hostname: "127.0.0.1", port: 0 }).close(),
  "start a program": () => new Deno.Command("deno", { args: ["--version"] }).outputSync(),
  "ask for more": () => {
    if (Deno.permissions.requestSync({ name: "write" }).state !== "granted") {
      throw new Deno.errors.NotCapable("not granted");
    }
  },
};

await runCommand(() => {
  Deno.mkdirSync("inside/new", { recursive: true });
  const found = Object.entries(attempts).map(([what, attempt]) => {
    try {
      attempt();
      return [what, "done"];
    } catch (error) {
      return [what, (error as Error).name];
    }
  });
  console.log(JSON.stringify(Object.fromEntries(found)));
  return Promise.resolve(7);
}, {
  confine: (args) => {
    if (!existsSync("outside/file")) throw new Error("This is no folder that a test has made: run its test");
    return {
      args,
      folders: ["inside"],
      reads: ["named", "shards/model.safetensors.index.json", undefined, ""],
      engine: { choice: args[0] as EngineChoice },
    };
  },
});
