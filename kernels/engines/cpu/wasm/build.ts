/**
 * Compiles `assembly/` twice, with relaxed SIMD and without, into `kernels.relaxed.base64` and `kernels.simd.base64`: text,
 * so that `load.ts` can import them with no permission and from any URL. The compiler is pinned, so the same
 * sources give the same bytes; `--check` compiles again and compares with what is committed.
 *
 *     deno task build:wasm [--check]
 *
 * @module
 */

/**
 * The compiler. It is named where it is used, and imported by a name that the module graph does not see: with an entry in the
 * import map or the lock file, everybody who runs a task would be sent its hundred megabytes.
 */
const COMPILER: string = "npm:assemblyscript@0.28.20/asc";

/** What is used of it. */
interface Compiler {
  main(args: readonly string[], api: {
    readFile(name: string): string | null;
    writeFile(name: string, contents: Uint8Array | string): void;
    listFiles(): string[];
  }): Promise<{ error: Error | null; stderr: { toString(): string } }>;
}

const sources = new URL("./assembly/", import.meta.url);
const variants = [
  { name: "relaxed", features: "simd,relaxed-simd,threads" },
  { name: "simd", features: "simd,threads" },
];

/** The module compiled with `features`, a comma-separated list in the compiler's own names; throws with its messages. */
export async function compile(features: string): Promise<Uint8Array<ArrayBuffer>> {
  let binary: Uint8Array<ArrayBuffer> | undefined;
  const { default: asc } = await import(COMPILER) as { default: Compiler };
  const { error, stderr } = await asc.main([
    "index.ts",
    ...["--outFile", "kernels.wasm", "--enable", features, "--runtime", "stub", "-O3", "--noAssert"],
    // Warns that JavaScript cannot call the exports that take vectors; they are there for emitted modules to link to.
    ...["--disableWarning", "112"],
    // A declared minimum of one MiB lets the engine drop half of each bounds check. No static data, so memory is the caller's.
    ...["--importMemory", "--sharedMemory", "--initialMemory", "16", "--maximumMemory", "65536"],
  ], {
    readFile(name) {
      try {
        return Deno.readTextFileSync(new URL(name, sources));
      } catch (cause) {
        if (cause instanceof Deno.errors.NotFound) return null;
        throw cause;
      }
    },
    writeFile(_name, contents) {
      binary = new Uint8Array(contents as Uint8Array);
    },
    listFiles: () => [],
  });
  if (error !== null || binary === undefined) {
    throw new Error(`Cannot compile ${sources.pathname}: ${stderr}`);
  }
  return binary;
}

/** Base64 in lines of 100 characters with a newline at the end, which is how the modules are committed. */
export function encode(binary: Uint8Array): string {
  return binary.toBase64().replace(/.{1,100}/g, "$&\n");
}

if (import.meta.main) {
  const check = Deno.args.includes("--check");
  for (const { name, features } of variants) {
    const file = new URL(`./kernels.${name}.base64`, import.meta.url);
    const text = encode(await compile(features));
    if (!check) {
      Deno.writeTextFileSync(file, text);
    } else if (Deno.readTextFileSync(file) !== text) {
      console.error(`${file.pathname} does not match its sources: run this file without --check`);
      Deno.exitCode = 1;
    }
  }
}
