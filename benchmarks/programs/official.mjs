// `@lmstudio/sdk`: official.mjs FOLDER-OF-NODE-MODULES WORKLOAD ADDRESS COUNT BATCH
import { createRequire } from "node:module";

const [folder, workload, address, countText, batchText] = process.argv.slice(2);
const { LMStudioClient } = createRequire(`${folder}/`)("@lmstudio/sdk");
const client = new LMStudioClient({ baseUrl: `ws://${address}`, verboseErrorMessages: false });
const count = Number(countText);
let cpu;
let wall;

function start() {
  wall = process.hrtime.bigint();
  cpu = process.cpuUsage();
}

function stop() {
  const used = process.cpuUsage(cpu);
  const seconds = Number(process.hrtime.bigint() - wall) / 1e9;
  const cpuUs = (used.user + used.system) / count;
  console.log(JSON.stringify({ cpu_us: cpuUs, wall_us: (seconds / count) * 1e6, wall_s: seconds }));
}

async function stream() {
  const model = await client.llm.model("bench-llm", { verbose: false });
  const prompt = { fragments: count, batch: Number(batchText), interval_us: 250 };
  let opened;
  const promptProcessed = new Promise(resolve => (opened = resolve));
  const prediction = model.respond(JSON.stringify(prompt), {
    onPromptProcessingProgress: opened,
  });
  await promptProcessed;
  const pieces = [];
  start();
  await model.tokenize("go");
  for await (const fragment of prediction) {
    pieces.push(fragment.content);
    if (pieces.length === count) stop();
  }
}

async function calls() {
  const model = await client.llm.model("bench-llm", { verbose: false });
  await model.tokenize("Hello");
  start();
  for (let call = 0; call < count; call++) await model.tokenize("Hello world, I am a test.");
  stop();
}

async function embed() {
  const model = await client.embedding.model("bench-embedding", { verbose: false });
  await model.embed("Hello");
  start();
  for (let call = 0; call < count; call++) await model.embed("Hello world, I am a test.");
  stop();
}

await { stream, calls, embed }[workload]();
process.exit(0);
