/**
 * A command that is confined to the folder `inside` and tries to write elsewhere in every way that Deno has: what it was refused
 * is its output, as JSON from the attempt to the name of the error, or "done".
 *
 * @module
 */
import { runCommand } from "../scripts/command.ts";

const attempts: Record<string, () => void> = {
  "write inside": () => Deno.writeTextFileSync("inside/new/file", "x"),
  "rename inside": () => Deno.renameSync("inside/new/file", "inside/new/other"),
  "read outside": () => Deno.readTextFileSync("outside/file"),
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
  "start a program": () => new Deno.Command(Deno.execPath(), { args: ["--version"] }).outputSync(),
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
}, (args) => ({ args, folders: ["inside"] }));
