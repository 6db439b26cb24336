/**
 * Files that break their format in one point each, by reader, with a piece of the sentence that refuses them; "" where a file is odd
 * but whole, and is read. One case a line: `deno fmt` leaves this file alone.
 *
 * @module
 */
import { parquetWriteBuffer } from "hyparquet-writer";
import { settle } from "../training/options.ts";
import { RUN_VERSION } from "../training/run_folder.ts";
import { archiveOf } from "./fuzz/mutate.ts";

/** What it is, the file, and a piece of the sentence. */
export type MalformedCase = readonly [name: string, bytes: Uint8Array, says: string];

const utf8 = (text: string) => new TextEncoder().encode(text);
const latin1 = (text: string) => Uint8Array.from(text, (c) => c.charCodeAt(0));
const utf16 = (text: string) => Uint8Array.from(`\xff\xfe${[...text].map((c) => `${c}\0`).join("")}`, (c) => c.charCodeAt(0));
const joined = (...parts: Uint8Array[]) => Uint8Array.from(parts.flatMap((part) => [...part]));
const MARK = Uint8Array.of(0xef, 0xbb, 0xbf);
const nest = (depth: number) => "[".repeat(depth) + "]".repeat(depth);

/** A safetensors file of a header and so many zeros. */
function safetensors(header: string | Uint8Array, data = 0, announced?: bigint): Uint8Array {
  const bytes = typeof header === "string" ? utf8(header) : header, file = new Uint8Array(8 + bytes.length + data);
  new DataView(file.buffer).setBigUint64(0, announced ?? BigInt(bytes.length), true);
  file.set(bytes, 8);
  return file;
}
const entry = (dtype: string, shape: string, offsets: string) => `{"a":{"dtype":${dtype},"shape":${shape},"data_offsets":${offsets}}}`;

const u32 = (n: number) => String.fromCharCode(n & 255, (n >> 8) & 255, (n >> 16) & 255, n >>> 24);
const text = (value: string) => `X${u32(value.length)}${value}`;
const STORAGE = `(${text("storage")}ctorch\nFloatStorage\n${text("0")}${text("cpu")}K\x04tQ`;
/** A tensor's pickle, with one of its arguments exchanged. */
const tensor = (change: { storage?: string; offset?: string; shape?: string; strides?: string; grad?: string; hooks?: string; more?: string } = {}) => {
  const { storage = STORAGE, offset = "K\0", shape = "K\x02K\x02\x86", strides = "K\x02K\x01\x86", grad = "\x89", more = "" } = change;
  const hooks = change.hooks ?? "ccollections\nOrderedDict\n)R";
  return `ctorch._utils\n_rebuild_tensor_v2\n(${storage}${offset}${shape}${strides}${grad}${hooks}${more}tR`;
};
/** An archive with a pickle, by default of protocol 2, and a storage of four numbers. */
function pth(pickle: string, others: Record<string, Uint8Array> = {}, before = "\x80\x02"): Uint8Array {
  const entries = { "m/data.pkl": latin1(`${before}${pickle}.`), "m/data/0": new Uint8Array(16), "m/version": utf8("3\n"), ...others };
  return archiveOf(new Map(Object.entries(entries)));
}
const model = (value: string) => pth(`}${text("a")}${value}s`);

interface Index {
  magic?: string;
  version?: bigint;
  type?: number;
  S?: bigint;
  D?: bigint;
  lengths?: readonly number[];
  offsets?: readonly bigint[];
  documents?: readonly bigint[];
  more?: readonly number[];
}
/** The index of two documents, of two and three tokens, with one thing exchanged. */
function binidx(change: Index = {}): Uint8Array {
  const { magic = "MMIDIDX\0\0", version = 1n, type = 8, lengths = [2, 3], offsets = [0n, 4n], documents = [0n, 1n, 2n], more = [] } = change;
  const bytes = new Uint8Array(34 + 4 * lengths.length + 8 * offsets.length + 8 * documents.length + more.length);
  const view = new DataView(bytes.buffer);
  bytes.set(latin1(magic));
  view.setBigUint64(9, version, true);
  bytes[17] = type;
  view.setBigUint64(18, change.S ?? BigInt(lengths.length), true);
  view.setBigUint64(26, change.D ?? BigInt(documents.length), true);
  lengths.forEach((length, i) => view.setInt32(34 + 4 * i, length, true));
  [...offsets, ...documents].forEach((n, i) => view.setBigInt64(34 + 4 * lengths.length + 8 * i, n, true));
  bytes.set(more, bytes.length - more.length);
  return bytes;
}

const SETTINGS = settle({ loadModel: "model.pth", dataFile: "text.jsonl" }, () => "runs/a");
/** A run's description with settings exchanged, and more beside them. */
const run = (settings: object = {}, more: object = {}) =>
  utf8(JSON.stringify({ version: RUN_VERSION, settings: { ...SETTINGS, ...settings }, model: "a", data: "b", ...more }));
const peft = (more: string, type = '"LORA"') => utf8(`{"peft_type":${type}${more}}`);
const map = (content: string) => utf8(`{"weight_map":${content}}`);
const parquet = (name: string, data: unknown[]) => new Uint8Array(parquetWriteBuffer({ columnData: [{ name, data }] }));
const BYTES = Array.from({ length: 256 }, (_, byte) => `${byte + 1} b'\\x${byte.toString(16).padStart(2, "0")}' 1\n`).join("");
const line = (content: string) => utf8(`${BYTES}${content}\n`);

/** By the names of `READERS`. */
export const MALFORMED: Readonly<Record<string, readonly MalformedCase[]>> = {
  safetensors: [
    ["a type in small letters", safetensors(entry('"f32"', "[1]", "[0,4]"), 4), "tensor \"a\" has element type \"f32\", which is not supported"],
    ["a type of torch", safetensors(entry('"torch.float32"', "[1]", "[0,4]"), 4), "tensor \"a\" has element type \"torch.float32\", which is not suppor"],
    ["a type from every object", safetensors(entry('"constructor"', "[1]", "[0,4]"), 4), "tensor \"a\" has element type \"constructor\", which is not supporte"],
    ["no type", safetensors('{"a":{"shape":[1],"data_offsets":[0,4]}}', 4), "the entry of tensor \"a\" must have a dtype, a shape and two data_"],
    ["type null", safetensors(entry("null", "[1]", "[0,4]"), 4), "the entry of tensor \"a\" is not valid: expected \" at character 14"],
    ["offsets as texts", safetensors(entry('"F32"', "[1]", '["0","4"]'), 4), "the entry of tensor \"a\" is not valid: expected an integer from 0"],
    ["an infinite offset", safetensors(entry('"F32"', "[1]", "[0,1e400]"), 4), "the entry of tensor \"a\" is not valid: expected ] at character 51"],
    ["an offset with an exponent", safetensors(entry('"F32"', "[1]", "[0,4e0]"), 4), "the entry of tensor \"a\" is not valid: expected ] at character 51"],
    ["offsets the wrong way round", safetensors(entry('"F32"', "[1]", "[4,0]"), 4), "tensor \"a\" of 4 bytes is given the range 4 to 0"],
    ["a shape in a shape", safetensors(entry('"F32"', "[[1]]", "[0,4]"), 4), "the entry of tensor \"a\" is not valid: expected an integer from 0"],
    ["shape null", safetensors(entry('"F32"', "null", "[0,4]"), 4), "the entry of tensor \"a\" is not valid: expected [ at character 28"],
    ["a size of 2^53", safetensors(entry('"U8"', "[9007199254740992]", "[0,9007199254740992]")), "the entry of tensor \"a\" is not valid: expected an integer from 0"],
    ["a size of 2^64", safetensors(entry('"U8"', "[18446744073709551616]", "[0,4]"), 4), "the entry of tensor \"a\" is not valid: expected an integer from 0"],
    ["a size of true", safetensors(entry('"U8"', "[true]", "[0,1]"), 1), "the entry of tensor \"a\" is not valid: expected an integer from 0"],
    ["half a byte of F4", safetensors(entry('"F4"', "[3]", "[0,2]"), 2), "tensor \"a\" has an impossible size, F4 [3]"],
    ["a hole of one byte", safetensors('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}', 3), "tensor \"b\" begins at data byte 2 where 1 is next, a gap or an ov"],
    ["an overlap of one byte", safetensors('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}', 3), "tensor \"b\" begins at data byte 1 where 2 is next, a gap or an ov"],
    ["a header in UTF-16", safetensors(utf16("{}")), "the header is not valid UTF-8"],
    ["a list for a header", safetensors("[]"), "the header is not valid: expected { at character 0"],
    ["single quotes", safetensors("{'a':1}"), "the header is not valid: expected \" at character 1"],
    ["a header length with the wrong end first", joined(latin1("\0\0\0\0\0\0\0\x02"), utf8("{}")), "it is not a safetensors file (its header would have 144115188075"],
    ["metadata that is a list", safetensors('{"__metadata__":[]}'), "__metadata__ is not valid: expected { at character 16"],
    ["metadata with a number", safetensors('{"__metadata__":{"a":1}}'), "\"a\" of __metadata__ is not valid: expected \" at character 21"],
    ["a tensor that is null", safetensors('{"a":null}'), "the entry of tensor \"a\" is not valid: expected { at character 5"],
    ["a tensor of a prototype's name", safetensors('{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"constructor":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', 2), ""],
    ["no tensor at all, but data", safetensors("{}", 1), "its tensors take 0 bytes of data, but 1 follow the header"],
  ],
  pth: [
    ["protocol 1", pth(`}${text("a")}${tensor()}s`, {}, "\x80\x01"), "its data.pkl does not begin as a pickle of protocol 2"],
    ["protocol 5 and a frame", pth(`\x95\x08\0\0\0\0\0\0\0}${text("a")}${tensor()}s`, {}, "\x80\x05"), "its data.pkl does not begin as a pickle of protocol 2"],
    ["protocol 2 and a frame", pth(`\x95\x08\0\0\0\0\0\0\0}`), "its data.pkl uses pickle opcode 0x95, which no file of tensors n"],
    ["a text of 2^63 bytes", pth("\x8d\xff\xff\xff\xff\xff\xff\xff\x7f}"), "its data.pkl uses pickle opcode 0x8d, which no file of tensors n"],
    ["a short text of protocol 4", pth("}\x8c\x01aNs"), "its data.pkl uses pickle opcode 0x8c, which no file of tensors n"],
    ["a name from the stack", pth("\x8c\x02os\x8c\x06system\x93"), "its data.pkl uses pickle opcode 0x8c, which no file of tensors n"],
    ["a class of its own", pth("cos\nsystem\n)R"), "it names \"os.system\", which no file of tensors needs"],
    ["an attribute path", pth("ctorch\nFloatStorage.__init__.__globals__\n"), "it names \"torch.FloatStorage.__init__.__globals__\", which no fil"],
    ["a module that ends where the name begins", pth("ctorch.Float\nStorage\n"), "it names \"torch.Float.Storage\", which no file of tensors needs"],
    ["a module with a path", pth("ctorch._utils._rebuild_tensor_v2\n\n"), "it names \"torch._utils._rebuild_tensor_v2.\", which no file of te"],
    ["an older way to build a tensor", pth("ctorch._utils\n_rebuild_tensor\n(tR"), "it names \"torch._utils._rebuild_tensor\", which no file of tensor"],
    ["a call of a storage class", model("ctorch\nFloatStorage\n)R"), "it calls a storage with 0 arguments of the wrong kind"],
    ["an OrderedDict with arguments", model("ccollections\nOrderedDict\n]\x85R"), "it calls a OrderedDict with 1 arguments of the wrong kind"],
    ["new objects", pth("ctorch\nFloatStorage\n)\x81"), "its data.pkl uses pickle opcode 0x81, which no file of tensors n"],
    ["an old-style instance", pth("(itorch\nFloatStorage\n"), "its data.pkl uses pickle opcode 0x69, which no file of tensors n"],
    ["an extension code", pth("\x82\x01"), "its data.pkl uses pickle opcode 0x82, which no file of tensors n"],
    ["a tuple with itself", pth("]q\0h\0\x85a"), "it holds a list where a dict of tensors is expected"],
    ["a state for a tensor", model(`${tensor()}}b`), "its data.pkl sets the state of something other than an OrderedDi"],
    ["a persistent id that is text", model("X\x01\0\0\0aQ"), "it refers to something outside itself that is not a tensor's sto"],
    ["a persistent id of four", model(`(${text("storage")}ctorch\nFloatStorage\n${text("0")}${text("cpu")}tQ`), "it refers to something outside itself that is not a tensor's sto"],
    ["a persistent id of a module", model(`(${text("module")}ctorch\nFloatStorage\n${text("0")}${text("cpu")}K\x04tQ`), "it refers to something outside itself that is not a tensor's sto"],
    ["a key that is a number", model(tensor({ storage: `(${text("storage")}ctorch\nFloatStorage\nK\0${text("cpu")}K\x04tQ` })), "it refers to something outside itself that is not a tensor's sto"],
    ["a count that is text", model(tensor({ storage: `(${text("storage")}ctorch\nFloatStorage\n${text("0")}${text("cpu")}${text("4")}tQ` })), "it refers to something outside itself that is not a tensor's sto"],
    ["a count below nothing", model(tensor({ storage: `(${text("storage")}ctorch\nFloatStorage\n${text("0")}${text("cpu")}J\xff\xff\xff\xfftQ` })), "it refers to something outside itself that is not a tensor's sto"],
    ["a key that leads out", model(tensor({ storage: `(${text("storage")}ctorch\nFloatStorage\n${text("../version")}${text("cpu")}K\x04tQ` })), "storage \"../version\" of 4 F32 elements is missing"],
    ["a key from every object", model(tensor({ storage: `(${text("storage")}ctorch\nFloatStorage\n${text("__proto__")}${text("cpu")}K\x04tQ` })), "storage \"__proto__\" of 4 F32 elements is missing"],
    ["a storage for a tensor", model(STORAGE), "it holds a dict without tensors (its keys begin \"a\")"],
    ["a tensor for a storage", model(tensor({ storage: tensor() })), "it describes a tensor with arguments of the wrong kind"],
    ["an offset of nothing", model(tensor({ offset: "N" })), "it describes a tensor with arguments of the wrong kind"],
    ["an offset that is true", model(tensor({ offset: "\x88" })), "it describes a tensor with arguments of the wrong kind"],
    ["an offset one too far", model(tensor({ offset: "K\x01" })), "a tensor F32 [2,2] of storage \"0\" reaches element 5 of 4"],
    ["an offset of 2^53", model(tensor({ offset: "\x8a\x07\0\0\0\0\0\0\x20" })), "it describes a tensor with arguments of the wrong kind"],
    ["an offset of 2^80", model(tensor({ offset: `\x8a\x0b${"\0".repeat(10)}\x01` })), "it describes a tensor with arguments of the wrong kind"],
    ["a list for a shape", model(tensor({ shape: "]K\x04a" })), "it describes a tensor with arguments of the wrong kind"],
    ["a shape with a fraction", model(tensor({ shape: "K\x02G?\xf8\0\0\0\0\0\0\x86" })), "it describes a tensor with arguments of the wrong kind"],
    ["a shape of whole floats", model(tensor({ shape: "G@\0\0\0\0\0\0\0K\x02\x86" })), "it describes a tensor with arguments of the wrong kind"],
    ["an offset that is the float 0", model(tensor({ offset: "G\0\0\0\0\0\0\0\0" })), "it describes a tensor with arguments of the wrong kind"],
    ["a parameter to which Python attached something", model(`ctorch._utils\n_rebuild_parameter_with_state\n(${tensor()}\x88ccollections\nOrderedDict\n)R}${text("sharded")}\x89stR`), ""],
    ["a parameter that is no tensor", model(`ctorch._utils\n_rebuild_parameter\n(${STORAGE}\x88ccollections\nOrderedDict\n)RtR`), "it calls a parameter with 3 arguments of the wrong kind"],
    ["three thousand small tensors, of which Python remembers every part", pth(`}(${Array.from({ length: 3000 }, (_, i) => text(`${i}`) + tensor() + Array.from({ length: 10 }, (_, part) => `r${u32(10 * i + part)}`).join("")).join("")}u`), ""],
    ["a dict with a fraction for a key", pth(`}(${text("a")}${tensor()}${text("b")}}G?\xf8\0\0\0\0\0\0Nsu`), ""],
    ["a shape below nothing", model(tensor({ shape: "K\x02J\xfe\xff\xff\xff\x86" })), "it describes a tensor with arguments of the wrong kind"],
    ["strides below nothing", model(tensor({ strides: "J\xfe\xff\xff\xffK\x01\x86" })), "it describes a tensor with arguments of the wrong kind"],
    ["strides of a size beyond all", model(tensor({ strides: "J\xff\xff\xff\x7fK\x01\x86" })), "a tensor F32 [2,2] of storage \"0\" reaches element 2147483649 of"],
    ["strides that overlap", model(tensor({ strides: "K\x01K\x01\x86" })), ""],
    ["hooks that are a list", model(tensor({ hooks: "]" })), "it describes a tensor with arguments of the wrong kind"],
    ["a gradient that is text", model(tensor({ grad: text("x") })), "it describes a tensor with arguments of the wrong kind"],
    ["one argument too many", model(tensor({ more: "NN" })), "it calls a tensor with 8 arguments of the wrong kind"],
    ["one name twice", pth(`}(${text("a")}${tensor()}${text("a")}${tensor()}u`), "its data.pkl has the dict key \"a\" twice"],
    ["one name twice, in an OrderedDict", pth(`ccollections\nOrderedDict\n)R(${text("a")}${tensor()}${text("a")}${tensor()}u`), "its data.pkl has the dict key \"a\" twice"],
    ["tensors that repeat one storage a hundred times", pth(`}(${Array.from({ length: 100 }, (_, i) => text(`${i}`) + tensor({ shape: "M\x80\0M\0\x04\x86", strides: "K\0K\0\x86" })).join("")}u`), "its tensors repeat its 14169 bytes to 52428800"],
    ["a list of tensors", pth(`]${tensor()}a`), "it holds a list where a dict of tensors is expected"],
    ["TorchScript", pth("ctorch\nScriptModule\n)R", { "m/constants.pkl": latin1("\x80\x02)."), "m/code/a.py": utf8("x") }), "it names \"torch.ScriptModule\", which no file of tensors needs"],
    ["a tar file", joined(utf8("pickle"), new Uint8Array(251), utf8("ustar"), new Uint8Array(250)), "it is a tar archive, as the first versions of torch wrote"],
    ["a web page", utf8("<!DOCTYPE html><html><body>Not found</body></html>"), "it is a web page; download the file itself"],
    ["a pointer of Git LFS", utf8(`version https://git-lfs.github.com/spec/v1\noid sha256:${"0".repeat(64)}\nsize 3\n`), "it is a pointer of Git LFS, not what it stands for"],
    ["a text", utf8("# Notes\r\n\tof some length, \u00e4 and \u4e2d\n"), "it is a text and no safetensors file; name a .safetensors file"],
    ["a GGUF file", joined(utf8("GGUF"), new Uint8Array(60)), "it is a GGUF or GGML file; name the .pth or .safetensors file"],
    ["a gzip file", joined(latin1("\x1f\x8b\x08\0"), new Uint8Array(100)), "it is a compressed file; unpack it first"],
    ["only a zip's end", joined(latin1("PK\x05\x06"), new Uint8Array(18)), "it is a zip file with 0 entries named data.pkl, where torch has"],
    ["an archive without a pickle", archiveOf(new Map([["m/version", utf8("3\n")]])), "it is a zip file with 0 entries named data.pkl, where torch has"],
    ["a pickle at the top", archiveOf(new Map([["data.pkl", latin1("\x80\x02}.")]])), "it is a zip file with 0 entries named data.pkl, where torch has"],
    ["a byte order that is none", pth(`}${text("a")}${tensor()}s`, { "m/byteorder": utf8("middle") }), "its byteorder is \"middle\", neither little nor big"],
    ["metadata that is no JSON", pth(`}${text("a")}${tensor()}s`, { "m/extra/__metadata__.json": utf8("{") }), "m/extra/__metadata__.json is not valid: expected \" at character"],
  ],
  "index.json": [
    ["a way up", map('{"a":"../x.safetensors"}'), "its weight_map puts tensor \"a\" into \"../x.safetensors\", which is"],
    ["a way from the root", map('{"a":"/etc/passwd"}'), "its weight_map puts tensor \"a\" into \"/etc/passwd\", which is no n"],
    ["a way back for Windows", map('{"a":"..\\\\x"}'), "its weight_map puts tensor \"a\" into \"..\\\\x\", which is no name of"],
    ["a drive", map('{"a":"C:x"}'), "its weight_map puts tensor \"a\" into \"C:x\", which is no name of a"],
    ["its own folder", map('{"a":"."}'), "its weight_map puts tensor \"a\" into \".\", which is no name of a f"],
    ["the folder above", map('{"a":".."}'), "its weight_map puts tensor \"a\" into \"..\", which is no name of a"],
    ["no name", map('{"a":""}'), "its weight_map puts tensor \"a\" into \"\", which is no name of a fi"],
    ["a name with a NUL", map('{"a":"x\\u0000"}'), "its weight_map puts tensor \"a\" into \"x\\u0000\", which is no name"],
    ["a name with a line's end", map('{"a":"x\\n"}'), "its weight_map puts tensor \"a\" into \"x\\n\", which is no name of a"],
    ["a name of 300 letters", map(`{"a":"${"x".repeat(300)}"}`), "its weight_map puts tensor \"a\" into \"xxxxxxxxxxxxxxxxxxxxxxxxxxx"],
    ["a number for a name", map('{"a":1}'), "\"a\" of weight_map is not valid: expected \" at character 19"],
    ["a list for a name", map('{"a":["one.safetensors"]}'), "\"a\" of weight_map is not valid: expected \" at character 19"],
    ["null", map("null"), "weight_map is not valid: expected { at character 14"],
    ["a list", map('["a"]'), "weight_map is not valid: expected { at character 14"],
    ["a tensor twice", map('{"a":"one.safetensors","a":"one.safetensors"}'), "weight_map has \"a\" twice"],
    ["a tensor twice, once escaped", map('{"a":"one.safetensors","\\u0061":"two.safetensors"}'), "weight_map has \"a\" twice"],
    ["two maps", utf8('{"weight_map":{},"weight_map":{}}'), "the index has weight_map twice"],
    ["itself", map('{"a":"model.safetensors.index.json"}'), "it is a text and no safetensors file; name a .safetensors file"],
    ["a file that is not there", map('{"a":"none.safetensors"}'), "there is no such file, check the path"],
    ["a mark before it", joined(MARK, map("{}")), "the index is not valid: expected { at character 0"],
    ["something behind it", joined(map("{}"), utf8(" 1")), "the index goes on after its end, at character 18"],
    ["lists in lists", utf8(`{"a":${nest(100)},"weight_map":{}}`), "the index is nested more than 32 deep"],
    ["a size that is no number", utf8('{"metadata":{"total_size":NaN},"weight_map":{}}'), "the index is not valid: expected a value at character 26"],
    ["UTF-16", utf16('{"weight_map":{}}'), "the index is not valid UTF-8"],
    ["a tensor of a prototype's name", map('{"__proto__":"one.safetensors"}'), "\"one.safetensors\" lacks tensor \"__proto__\" of its weight_map"],
    ["a tensor that is elsewhere", map('{"a":"one.safetensors"}'), "\"one.safetensors\" holds tensor \"emb.weight\", which its weight_ma"],
    ["a tensor in capitals", map('{"A":"one.safetensors"}'), "\"one.safetensors\" lacks tensor \"A\" of its weight_map"],
    ["nothing", utf8(""), "the index is not valid: expected { at character 0"],
  ],
  "adapter_config.json": [
    ["a rank twice", peft(',"r":2,"r":4'), "its text has \"r\" twice"],
    ["a rank that is no number", peft(',"r":NaN'), "its text is not valid: expected a value at character 24"],
    ["an alpha without end", peft(',"lora_alpha":Infinity'), "its text is not valid: expected a value at character 33"],
    ["an alpha beyond numbers", peft(',"lora_alpha":1e400'), "its lora_alpha is null where a number is needed"],
    ["rank 0", peft(',"r":0'), "its r is 0 where a whole number of at least 1 is needed"],
    ["rank -1", peft(',"r":-1'), "its r is -1 where a whole number of at least 1 is needed"],
    ["rank 1.5", peft(',"r":1.5'), "its r is 1.5 where a whole number of at least 1 is needed"],
    ["a rank as text", peft(',"r":"2"'), "its r is \"2\" where a whole number of at least 1 is needed"],
    ["rank 2^53", peft(',"r":9007199254740992'), "its r is 9007199254740992 where a whole number of at least 1 is"],
    ["rank true", peft(',"r":true'), "its r is true where a whole number of at least 1 is needed"],
    ["small letters", peft("", '"lora"'), "its peft_type is \"lora\", and those that can be used are BONE, MI"],
    ["a type from every object", peft("", '"constructor"'), "its peft_type is \"constructor\", and those that can be used are B"],
    ["a prototype", utf8('{"__proto__":{"peft_type":"LORA"}}'), "its text has \"__proto__\" as a key"],
    ["ranks in a list", peft(',"r":2,"rank_pattern":[1]'), "its rank_pattern is [1] where an object of patterns is needed"],
    ["a rank in text", peft(',"r":2,"rank_pattern":{"key":"2"}'), "its rank_pattern gives \"2\" for \"key\" where a number is needed"],
    ["a rank for a prototype", peft(',"r":2,"rank_pattern":{"__proto__":2}'), "its text has \"__proto__\" as a key"],
    ["a pattern that is none", peft(',"r":2,"rank_pattern":{"(":2}'), "the pattern \"(\" is no regular expression"],
    ["a pattern that takes for ever", peft(',"r":2,"rank_pattern":{"(a+)+$":2}'), "the pattern \"(a+)+$\" repeats a group, which may take for ever"],
    ["a pattern of many repetitions", peft(',"r":2,"alpha_pattern":{".*.*.*.*x":2}'), "the pattern \".*.*.*.*x\" repeats more than 3 times"],
    ["a pattern of a thousand letters", peft(`,"r":2,"alpha_pattern":{"${"x".repeat(1000)}":2}`), "the pattern \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"],
    ["a rank with a fraction", peft(',"r":2,"rank_pattern":{"key":1.5}'), "the lora_A of blocks.0.att.key is [2,4] where its adapter_config"],
    ["a rank below nothing", peft(',"r":2,"rank_pattern":{"key":-2}'), "the lora_A of blocks.0.att.key is [2,4] where its adapter_config"],
    ["a mark before it", joined(MARK, peft(',"r":2')), "its text is not valid: expected a value at character 0"],
    ["UTF-16", utf16('{"peft_type":"LORA"}'), "its text is not valid UTF-8"],
    ["a list", utf8("[]"), "it is not a JSON object"],
    ["nothing", utf8(""), "its text is not valid: expected a value at character 0"],
    ["something behind it", joined(peft(',"r":2'), utf8(" x")), "its text goes on after its end, at character 27"],
    ["a comment", utf8('{"peft_type":"LORA" /* */}'), "its text is not valid: expected } at character 20"],
    ["a comma too many", peft(',"r":2,'), "its text is not valid: expected \" at character 26"],
    ["alpha true", peft(',"r":2,"lora_alpha":true'), "its lora_alpha is true where a number is needed"],
    ["a switch in words", peft(',"r":2,"use_dora":"yes"'), "its use_dora is \"yes\" where true or false is needed"],
    ["a dropout of 2", peft(',"r":2,"lora_dropout":2'), "The dropout of lora must be from 0 to below 1: it is 2"],
    ["another type", peft("", '"IA3"'), "its peft_type is \"IA3\", and those that can be used are BONE, MIS"],
    ["half a surrogate pair", peft(',"x":"\\udc00"'), "its text is not valid: a string holds a lone surrogate"],
    ["lists in lists", peft(`,"x":${nest(100)}`), "its text is nested more than 32 deep"],
  ],
  "config.json": [
    ["a mark before it", joined(MARK, run()), "is not whole (its text is not valid: expected a value at charact"],
    ["UTF-16", utf16("{}"), "is not whole (its text is not valid UTF-8), so start a new run"],
    ["a version twice", utf8('{"version":1,"version":1}'), "is not whole (its text has \"version\" twice), so start a new run"],
    ["a version that is no number", utf8('{"version":NaN}'), "is not whole (its text is not valid: expected a value at charact"],
    ["a version to come", run({}, { version: 2 }), "has version 2, not 1"],
    ["a version in text", run({}, { version: "1" }), "has version \"1\", not 1"],
    ["a prototype", utf8('{"__proto__":{"a":1},"version":1}'), "is not whole (its text has \"__proto__\" as a key), so start a new"],
    ["a setting from every object", run({ constructor: 1 }), "has the setting \"constructor\", which is unknown here"],
    ["a prototype for settings", utf8(new TextDecoder().decode(run()).replace('"settings":{', '"settings":{"__proto__":{},')), "is not whole (its text has \"__proto__\" as a key), so start a new"],
    ["a length beyond numbers", utf8(new TextDecoder().decode(run()).replace('"ctxLen":1024', '"ctxLen":1e400')), "has settings that cannot be: --ctx_len must be a whole number of"],
    ["a length below nothing", run({ ctxLen: -1 }), "has settings that cannot be: --ctx_len must be a whole number of"],
    ["a length with a fraction", run({ ctxLen: 1.5 }), "has settings that cannot be: --ctx_len must be a whole number of"],
    ["a length of 2^53", run({ ctxLen: 2 ** 53 }), "has settings that cannot be: --ctx_len must be a whole number of"],
    ["a batch beyond all", run({ microBsz: 2 ** 40 }), "has settings that cannot be: --micro_bsz must be at most 1048576"],
    ["batches beyond all", run({ accumulateGradBatches: 2 ** 50 }), "has settings that cannot be: --accumulate_grad_batches must be a"],
    ["epochs beyond all", run({ epochCount: 1e308 }), "has settings that cannot be: --epoch_count must be a whole numbe"],
    ["a path with a NUL", run({ dataFile: "a\0b" }), "has settings that cannot be: --data_file holds a NUL, which no p"],
    ["a number for a path", run({ dataFile: 1 }), "has a number as the setting \"dataFile\""],
    ["settings null", run({}, { settings: null }), "has no settings"],
    ["settings in a list", run({}, { settings: [] }), "has no settings"],
    ["an object for a rank", run({ boneConfig: { bone_r: {} } }), "has a object as \"bone_r\" of the setting \"boneConfig\""],
    ["a seed below nothing", run({ randomSeed: -1 }), "has settings that cannot be: --random_seed must be a whole numbe"],
    ["lists of prompts in a list", run({ samplePrompt: [["a"]] }), "has a list as the setting \"samplePrompt\""],
    ["a prompt format of every object", run({ promptFormat: "__proto__" }), "has settings that cannot be: Unknown prompt format \"__proto__\":"],
    ["a checkpoint every 0 steps", run({ saveSteps: 0 }), "has settings that cannot be: --save_steps must be a whole number"],
    ["a number for the text's checksum", run({}, { data: 5 }), "does not say what it began with"],
    ["half a surrogate pair", utf8('{"version":1,"x":"\\ud800"}'), "is not whole (its text is not valid: a string holds a lone surro"],
    ["a list", utf8("[]"), "is not whole (it is no object), so start a new run"],
    ["null", utf8("null"), "is not whole (it is no object), so start a new run"],
    ["nothing", utf8(""), "is not whole (its text is not valid: expected a value at charact"],
    ["blanks", utf8("   "), "is not whole (its text is not valid: expected a value at charact"],
    ["something behind it", joined(run(), utf8("{}")), "is not whole (its text goes on after its end, at character 956),"],
  ],
  vocabulary: [
    ["UTF-16", utf16("1 'a' 1\n"), ": it is not UTF-8 text"],
    ["nothing", utf8(""), "has no token for the single byte 0, so it cannot encode every te"],
    ["blank lines", utf8("\n\n"), "expected an id, a Python literal and a byte length, with spaces"],
    ["an id below nothing", utf8("-1 'a' 1\n"), "expected an id, a Python literal and a byte length, with spaces"],
    ["an id with a fraction", utf8("1.5 'a' 1\n"), "expected an id, a Python literal and a byte length, with spaces"],
    ["an id in hexadecimal", utf8("0x1 'a' 1\n"), "expected an id, a Python literal and a byte length, with spaces"],
    ["an id in Arabic digits", utf8("\u0661 'a' 1\n"), "expected an id, a Python literal and a byte length, with spaces"],
    ["id 0", utf8("0 'a' 1\n"), "id 0 is the end of a document and has no token"],
    ["an id beyond all", line("9007199254740993 'zz' 2"), "id 9007199254740992 is too large, the limit is 589823"],
    ["an id twice", line("256 'zz' 2"), "id 256 occurs twice"],
    ["a token twice", line("257 'a' 1"), "ids 98 and 257 are the same token"],
    ["an empty token", line("257 '' 0"), "the token is empty"],
    ["a token of 2000 bytes", line(`257 '${"x".repeat(2000)}' 2000`), "the token is longer than 1024 bytes"],
    ["a line of 20,000 letters", line(`257 '${"x".repeat(20_000)}' 20000`), "the line has 20012 characters, more than a token of 1024 bytes n"],
    ["a length that is another", utf8("1 'a' 2\n"), "the token has 1 bytes but the line says 2"],
    ["tabs", utf8("1\t'a'\t1\n"), "expected an id, a Python literal and a byte length, with spaces"],
    ["three quotes", utf8("1 '''a''' 1\n"), "a quote inside the literal '''a''' is not escaped"],
    ["an f-string", utf8("1 f'{__import__}' 1\n"), "expected a Python literal in quotes, found f'{__import__}'"],
    ["code", utf8("1 __import__('os') 1\n"), "expected a Python literal in quotes, found __import__('os')"],
    ["an octal escape", utf8("1 '\\101' 1\n"), "the escape \\1 in '\\101' is unknown"],
    ["a name of a character", utf8("1 '\\N{DASH}' 1\n"), "the escape \\N in '\\N{DASH}' is unknown"],
    ["half a surrogate pair", utf8("1 '\\ud800' 3\n"), "the token holds half of a surrogate pair"],
    ["a character beyond all", utf8("1 '\\U00110000' 4\n"), "the escape \\U00110000 in '\\U00110000' is not complete"],
    ["half an escape", utf8("1 '\\x4' 1\n"), "the escape \\x4 in '\\x4' is not complete"],
    ["bytes that are no ASCII", utf8("1 b'\u00e9' 2\n"), "a bytes literal holds only ASCII, found b'\u00e9'"],
    ["lines that end in CR alone", utf8("1 'a' 1\r2 'b' 1\r"), "a quote inside the literal 'a' 1\r2 'b' is not escaped"],
    ["JSON with an id twice", utf8('{"1":"a","1":"b"}'), "id 1 occurs twice"],
    ["JSON with an id twice, once with a 0 before it", utf8('{"1":"a","01":"b"}'), "id 1 occurs twice"],
    ["JSON with null", utf8('{"1":null}'), "expected a string or an array of byte values"],
    ["JSON with a byte of 256", utf8('{"1":[256]}'), "expected a string or an array of byte values"],
    ["JSON with an empty token", utf8('{"1":""}'), "the token is empty"],
    ["JSON with objects", utf8('{"1":{"a":1}}'), "expected a string or an array of byte values"],
    ["JSON with a name from every object", utf8('{"constructor":"a"}'), "an id is a whole number"],
    ["JSON in a list", utf8('["a"]'), "expected an id, a Python literal and a byte length, with spaces"],
    ["a gzip file", latin1("\x1f\x8b\x08\0"), ": it is not UTF-8 text"],
  ],
  binidx: [
    ["nothing", new Uint8Array(), "it is no binidx index"],
    ["another magic", binidx({ magic: "MMIDIDX\0\x01" }), "it is no binidx index"],
    ["version 2", binidx({ version: 2n }), "it has version 2, and there is only 1"],
    ["a version with the wrong end first", binidx({ version: 1n << 56n }), "it has version 72057594037927936, and there is only 1"],
    ["tokens of one byte", binidx({ type: 1 }), "its tokens are uint8: uint16 and int32 are read"],
    ["tokens of type 0", binidx({ type: 0 }), "its tokens are of unknown type 0: uint16 and int32 are read"],
    ["tokens that are fractions", binidx({ type: 7 }), "its tokens are float64: uint16 and int32 are read"],
    ["tokens of type 200", binidx({ type: 200 }), "its tokens are of unknown type 200: uint16 and int32 are read"],
    ["2^63 sequences", binidx({ S: 1n << 63n }), "it has 82 bytes where 9223372036854776000 sequences and 3 docume"],
    ["2^53 sequences", binidx({ S: 1n << 53n }), "it has 82 bytes where 9007199254740992 sequences and 3 documents"],
    ["2^64 - 1 documents", binidx({ D: (1n << 64n) - 1n }), "it has 82 bytes where 2 sequences and 18446744073709552000 docum"],
    ["a length below nothing", binidx({ lengths: [-1, 3] }), "its lengths or its list of documents make no sense"],
    ["lengths beyond the file", binidx({ lengths: [2, 2 ** 30] }), "its index has 1073741826 tokens where 64 bytes hold 32, so the p"],
    ["sequences from back to front", binidx({ lengths: [3, 2], offsets: [4n, 0n] }), "document 2 begins at byte 0, before the end of what comes before"],
    ["sequences that share tokens", binidx({ offsets: [0n, 2n] }), "document 2 begins at byte 2, before the end of what comes before"],
    ["one sequence twice", binidx({ offsets: [0n, 0n] }), "document 2 begins at byte 0, before the end of what comes before"],
    ["an offset inside a token", binidx({ offsets: [1n, 5n] }), "document 1 begins at byte 1, inside a token, so its index is dam"],
    ["an offset below nothing", binidx({ offsets: [-2n, 4n] }), "document 1 lies at bytes -2 to 2 of 64, so the pair is cut off o"],
    ["an offset of 2^62", binidx({ offsets: [0n, 1n << 62n] }), "document 2 lies at bytes 4611686018427388000 to 4611686018427388"],
    ["an offset at the end", binidx({ offsets: [0n, 64n] }), "document 2 lies at bytes 64 to 70 of 64, so the pair is cut off"],
    ["documents from back to front", binidx({ documents: [0n, 2n, 1n] }), "its lengths or its list of documents make no sense"],
    ["a document beyond the sequences", binidx({ documents: [0n, 1n, 3n] }), "its lengths or its list of documents make no sense"],
    ["documents that begin late", binidx({ documents: [1n, 2n] }), "its lengths or its list of documents make no sense"],
    ["a document below nothing", binidx({ documents: [0n, -1n, 2n] }), "its lengths or its list of documents make no sense"],
    ["documents that end early", binidx({ documents: [0n, 1n] }), "its lengths or its list of documents make no sense"],
    ["a byte too many", binidx({ more: [0] }), "it has 83 bytes where 2 sequences and 3 documents need another n"],
    ["cut off", binidx().subarray(0, 60), "it has 60 bytes where 2 sequences and 3 documents need another n"],
    ["documents that are not listed", binidx({ documents: [0n] }), ""],
    ["two sequences in one document", binidx({ documents: [0n, 2n] }), ""],
  ],
  documents: [
    ["UTF-16", utf16('{"text":"a"}\n'), "is UTF-16 text: save it as UTF-8"],
    ["bytes that are no UTF-8", latin1('{"text":"\xff"}\n'), "the line is not valid UTF-8"],
    ["a NUL", utf8('{"text":"a\\u0000b"}\n'), "\"text\" holds a NUL character, which ends a document for this mod"],
    ["half a surrogate pair", utf8('{"text":"\\ud800"}\n'), "\"text\" holds half of a surrogate pair"],
    ["a list", utf8("[1]\n"), "expected {\"text\": \"...\"}, found an array"],
    ["a text alone", utf8('"text"\n'), "expected {\"text\": \"...\"}, found a string"],
    ["NaN", utf8('{"text":NaN}\n'), "the line is not JSON (Unexpected token 'N', \"{\"text\":NaN}\" is no"],
    ["a number", utf8('{"text":1}\n'), "\"text\" must be a string, found a number"],
    ["null", utf8('{"text":null}\n'), "\"text\" must be a string, found null"],
    ["a prototype", utf8('{"__proto__":{"text":"x"}}\n'), "expected \"text\", \"messages\", \"prompt\" and \"completion\", or \"inst"],
    ["lists that do not end", utf8("[".repeat(100_000)), "the line is not JSON (Unexpected end of JSON input)"],
    ["nothing", utf8(""), "holds no document: give it lines of {\"text\": \"...\"}"],
    ["blank lines", utf8("\n\n \n"), "holds no document: give it lines of {\"text\": \"...\"}"],
    ["a line that is cut off", utf8('{"text":"a"}\n{"text":"b'), "the line is not JSON (Unterminated string in JSON at position 10"],
    ["a gzip file", latin1("\x1f\x8b\x08\0\x01\x02"), "the line is not valid UTF-8"],
    ["messages of nobody", utf8('{"messages":[{"content":"x"}]}\n'), "message 1 of \"messages\" has the role of nobody: there are system"],
    ["a role from every object", utf8('{"messages":[{"role":"__proto__","content":"x"}]}\n'), "message 1 of \"messages\" has the role \"__proto__\": there are syst"],
    ["no messages", utf8('{"messages":[]}\n'), "\"messages\" is an empty list"],
    ["messages that are null", utf8('{"messages":[null]}\n'), "message 1 of \"messages\" must be {\"role\": \"...\", \"content\": \"...\""],
    ["messages that are one object", utf8('{"messages":{"role":"user","content":"x"}}\n'), "\"messages\" must be a list of messages, found an object"],
    ["content that is an object", utf8('{"messages":[{"role":"user","content":{"a":1}}]}\n'), "message 1 of \"messages\": \"content\" must be a string, found an ob"],
    ["content that is a picture", utf8('{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}\n'), "message 1 of \"messages\": \"content\" has a piece that is no text ("],
    ["a list as deep as can be beside a text", utf8(`{"text":"a","x":${nest(100_000)}}\n`), ""],
  ],
  csv: [
    ["UTF-16", utf16("text\na\n"), "is UTF-16 text: save it as UTF-8"],
    ["bytes that are no UTF-8", latin1("text\n\xff\n"), "is not valid UTF-8: save it as UTF-8"],
    ["no column of text", utf8("a,b\n1,2\n"), "expected \"text\", \"messages\", \"prompt\" and \"completion\", or \"inst"],
    ["one column twice", utf8("text,text\na,b\n"), "it has \"text\" as the name of two columns"],
    ["two thousand columns", utf8(`${Array.from({ length: 2000 }, (_, i) => `c${i}`)}\n`), "it has 2000 columns, and at most 1000 are read"],
    ["a quote that does not end", utf8('text\n"abc\n'), "the row is not CSV (Quote Not Closed: the parsing is finished wi"],
    ["a quote inside", utf8('text\na"b\n'), "the row is not CSV (Invalid Opening Quote: a quote is found on f"],
    ["something behind a quote", utf8('text\n"a"b\n'), "rows of"],
    ["a row that is short", utf8("text,b\na\n"), "the row is not CSV (Invalid Record Length: columns length is 2,"],
    ["a row that is long", utf8("text\na,b\n"), "the row is not CSV (Invalid Record Length: columns length is 1,"],
    ["a NUL", utf8("text\na\0b\n"), "\"text\" holds a NUL character, which ends a document for this mod"],
    ["nothing", utf8(""), "holds no document: give it lines of {\"text\": \"...\"}"],
    ["a header alone", utf8("text\n"), "holds no document: give it lines of {\"text\": \"...\"}"],
    ["semicolons between columns of other names", utf8("texts;b\na;b\n"), "expected \"text\", \"messages\", \"prompt\" and \"completion\", or \"inst"],
    ["a column of a prototype's name", utf8("__proto__,text\nx,a\n"), ""],
    ["a mark before it", joined(MARK, utf8("text\na\n")), ""],
  ],
  parquet: [
    ["nothing", utf8(""), "it is cut off or damaged"],
    ["a magic alone", utf8("PAR1"), "it is cut off or damaged"],
    ["two magics", utf8("PAR1PAR1"), "parquet metadata length 827474256 exceeds available buffer 0"],
    ["encrypted", utf8("PARE\0\0\0\0PARE"), "parquet file invalid (footer != PAR1)"],
    ["a description beyond the file", joined(utf8("PAR1"), latin1("\xff\xff\xff\xff"), utf8("PAR1")), "parquet metadata length 4294967295 exceeds available buffer 4"],
    ["a description of nothing", joined(utf8("PAR1"), latin1("\0\0\0\0"), utf8("PAR1")), "it is cut off or damaged"],
    ["a text file", utf8("text,a\n"), "parquet file invalid (footer != PAR1)"],
    ["no column of text", parquet("x", [1, 2]), "rows of"],
    ["a text that is null", parquet("text", [null, "a"]), "\"text\" must be a string, found null"],
    ["numbers", parquet("text", [1]), "\"text\" must be a string, found a number"],
    ["a column of a prototype's name", parquet("__proto__", ["a"]), "expected \"text\", \"messages\", \"prompt\" and \"completion\", or \"inst"],
    ["cut off", parquet("text", ["a", "b"]).slice(0, 60), "parquet file invalid (footer != PAR1)"],
    ["one text in a thousand rows", parquet("text", new Array(1000).fill("x".repeat(1e6))), "letters by row"],
    ["zeros", new Uint8Array(1000), "parquet file invalid (footer != PAR1)"],
  ],
};
