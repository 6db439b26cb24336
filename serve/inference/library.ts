/**
 * The models that can be asked by name: a base model, and the base with each of the adapters that were made for it. The base
 * is on the engine once; an adapter is put beside it when it is first asked for.
 *
 * Nothing is loaded before somebody asks, so that a page for watching a run takes no memory from the run.
 *
 * @module
 */
import { basename, dirname, extname } from "node:path";
import { checkBase } from "../../adapters/adapter.ts";
import { loadAdapter } from "../../adapters/file.ts";
import type { AdapterHints } from "../../adapters/method.ts";
import { attach, wireAdapter } from "../../adapters/wiring.ts";
import { openTensorFile } from "../../formats/tensor_file.ts";
import type { EngineChoice } from "../../kernels/engines/choice.ts";
import { chooseEngine } from "../../kernels/engines/choose.ts";
import { Batch } from "../../rwkv/batch.ts";
import { PROMPT_FORMAT } from "../../rwkv/prompt_format.ts";
import type { ModelConfig } from "../../rwkv/config.ts";
import { Model, readModelConfig } from "../../rwkv/model.ts";
import { Session } from "../../rwkv/session.ts";
import { chooseTokenizer } from "../../rwkv/tokenizer/choose.ts";
import type { Tokenizer } from "../../rwkv/tokenizer/tokenizer.ts";

/** Adapters that stay beside the base while nobody uses them. */
const IDLE_ADAPTERS = 8;

/** An adapter that can be asked for. */
export interface AdapterFile {
  /** Its name as a model. */
  readonly name: string;
  readonly path: string;
}

/** A model by its name. */
export interface Listed {
  readonly name: string;
  /** The adapter's file; undefined for the base. */
  readonly adapter: string | undefined;
  /** Seconds since 1970 at which its file was written. */
  readonly created: number;
}

/** A model that is ready. */
export interface Loaded {
  readonly name: string;
  /** Tells its content from that of another of its name. */
  readonly key: string;
  /** Reads prompts. */
  readonly session: Session;
  /** Writes answers. */
  readonly batch: Batch;
}

/** There is no model of that name. */
export class UnknownModelError extends Error {
  override readonly name = "UnknownModelError";
}

interface Entry extends Loaded {
  users: number;
  /** Whether its file has changed or its engine has failed, so that it goes when its last user does. */
  stale: boolean;
  dispose(): void;
}

/** What a library is made from. */
export interface LibraryOptions {
  /** Base model file. */
  readonly base: string;
  /** World vocabulary file. */
  readonly vocab?: string | undefined;
  /** What files of adapters may leave unsaid. */
  readonly hints?: AdapterHints;
  readonly engine: EngineChoice;
  /** Threads, where the processor computes. Default: all cores. */
  readonly threads?: number | undefined;
  /** The adapters there are now; asked again and again, as runs end. */
  adapters(): readonly AdapterFile[];
  /** Sequences at once. */
  readonly slots: number;
  /** Told findings, a sentence each. */
  onMessage?(message: string): void;
}

/** Models by name. */
export class Library {
  /** Name of the base model. */
  readonly baseName: string;
  #model: Promise<Model> | undefined;
  readonly #entries = new Map<string, Promise<Entry>>();
  /** Prompt formats of adapters, by what tells their files apart. */
  readonly #formats = new Map<string, string | undefined>();

  private constructor(
    readonly options: LibraryOptions,
    readonly config: ModelConfig,
    readonly tokenizer: Tokenizer,
    readonly baseFormat: string | undefined,
  ) {
    this.baseName = nameOf(options.base);
  }

  /** Opens a library: reads the base's sizes and finds its vocabulary. @throws in one sentence if it is not a model */
  static async open(options: LibraryOptions): Promise<Library> {
    using file = openTensorFile(options.base);
    const config = readModelConfig(file);
    const tokenizer = await chooseTokenizer({
      vocabulary: config.vocabulary,
      modelPath: options.base,
      vocab: options.vocab,
    });
    return new Library(options, config, tokenizer, file.metadata.get(PROMPT_FORMAT));
  }

  /** The base, then the adapters that there are now; a name that is taken gets a number. */
  list(): Listed[] {
    const listed: Listed[] = [{
      name: this.baseName,
      adapter: undefined,
      created: written(this.options.base),
    }];
    for (const { name, path } of this.options.adapters()) {
      const taken = (name: string) => listed.some((other) => other.name === name);
      let free = name;
      for (let i = 2; taken(free); i++) free = `${name}-${i}`;
      listed.push({ name: free, adapter: path, created: written(path) });
    }
    return listed;
  }

  /** A model of the list. @throws UnknownModelError */
  find(name: string): Listed {
    const found = this.list().find((listed) => listed.name === name);
    if (!found) {
      throw new UnknownModelError(`The model "${name}" does not exist: GET /v1/models lists those that do`);
    }
    return found;
  }

  /** The prompt format that a model was taught; undefined where it was taught none. @throws UnknownModelError */
  promptFormat(name: string): string | undefined {
    const { adapter } = this.find(name);
    if (adapter === undefined) return this.baseFormat;
    const key = `${adapter} ${stamp(adapter)}`;
    if (!this.#formats.has(key)) {
      this.#formats.set(key, loadAdapter(adapter, this.options.hints).promptFormat);
    }
    return this.#formats.get(key) ?? this.baseFormat;
  }

  /** Makes a model ready, or gives the one that is. Release it as often as it was opened. */
  async open(name: string): Promise<Loaded> {
    const { adapter } = this.find(name);
    const key = `${name} ${adapter ? stamp(adapter) : ""}`;
    const known = await this.#entries.get(name)?.catch(() => undefined);
    if (known && known.key !== key) this.#retire(name, known);
    let opening = this.#entries.get(name);
    if (!opening) {
      opening = this.#load(name, key, adapter);
      this.#entries.set(name, opening);
      opening.catch(() => this.#entries.get(name) === opening && this.#entries.delete(name));
    }
    const entry = await opening;
    entry.users++;
    // The last used are last in line to go.
    if (this.#entries.get(name) === opening) {
      this.#entries.delete(name);
      this.#entries.set(name, opening);
    }
    await this.#makeRoom();
    return entry;
  }

  /** Gives back what was opened. */
  release(loaded: Loaded): void {
    const entry = loaded as Entry;
    entry.users--;
    if (entry.stale && !entry.users) entry.dispose();
  }

  async #load(name: string, key: string, path: string | undefined): Promise<Entry> {
    // A file that cannot be used is told before a large model is loaded for it.
    const adapter = path === undefined ? undefined : loadAdapter(path, this.options.hints);
    const model = await this.#base();
    if (adapter) checkBase(adapter, model.fingerprint, this.options.base);
    using begun = new DisposableStack();
    const attachment = adapter && begun.use(attach(adapter, model));
    const wire: Session["wire"] = (graph) =>
      attachment ? wireAdapter(graph, model, attachment) : model.wire(graph);
    const { config, engine } = model;
    const session = new Session(config, wire, engine);
    begun.defer(() => session.dispose());
    const batch = new Batch(config, wire, engine, this.options.slots);
    begun.defer(() => batch.dispose());
    const held = begun.move();
    return { name, key, session, batch, users: 0, stale: false, dispose: () => held.dispose() };
  }

  #base(): Promise<Model> {
    const loading = this.#model ??= (async () => {
      const { engine, reason } = await chooseEngine(this.options.engine, { threads: this.options.threads });
      this.options.onMessage?.(reason);
      try {
        const model = Model.load(this.options.base, engine);
        model.onDispose(() => engine.dispose());
        return model;
      } catch (error) {
        engine.dispose();
        throw error;
      }
    })();
    loading.catch(() => this.#model === loading && (this.#model = undefined));
    return loading;
  }

  #retire(name: string, entry: Entry): void {
    this.#entries.delete(name);
    entry.stale = true;
    if (!entry.users) entry.dispose();
  }

  async #makeRoom(): Promise<void> {
    for (const [name, opening] of [...this.#entries]) {
      if (this.#entries.size <= IDLE_ADAPTERS + 1) return;
      const entry = await opening.catch(() => undefined);
      if (entry && !entry.users && name !== this.baseName) this.#retire(name, entry);
    }
  }

  /** Forgets the engine and everything on it, after it has failed. */
  reset(): void {
    const model = this.#model;
    this.#entries.clear();
    this.#model = undefined;
    model?.then((model) => model.dispose()).catch(() => {});
  }

  /** Releases everything. */
  async dispose(): Promise<void> {
    for (const [name, opening] of [...this.#entries]) {
      const entry = await opening.catch(() => undefined);
      if (entry) this.#retire(name, entry);
    }
    const model = await this.#model?.catch(() => undefined);
    this.#model = undefined;
    model?.dispose();
  }
}

/** The name of a file as a model: its own, or where that says nothing its folder's. */
export function nameOf(path: string): string {
  const own = basename(path, extname(path));
  return own === "adapter" ? basename(dirname(path)) || own : own;
}

/** Seconds since 1970 at which a file was written; 0 where it is gone. */
function written(path: string): number {
  try {
    return Math.floor((Deno.statSync(path).mtime?.getTime() ?? 0) / 1000);
  } catch {
    return 0;
  }
}

/** Changes when a file does. */
function stamp(path: string): string {
  const { mtime, size, ino } = Deno.statSync(path);
  return `${mtime?.getTime()} ${size} ${ino}`;
}
