// The TypeScript SDK's client on a leash: one JSON object per line in, one out. Its first argument says what to connect to
// and how: {modules, era, forms, stdio: {command, args, env}} or {..., http: URL}. A request is {method, params}.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const wanted = JSON.parse(process.argv[2]);
const require = createRequire(wanted.modules + "/");
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { Client, StreamableHTTPClientTransport } = await load("@modelcontextprotocol/client");
const { StdioClientTransport } = await load("@modelcontextprotocol/client/stdio");

const client = new Client(
  { name: "typescript", version: "1" },
  {
    versionNegotiation: { mode: wanted.era },
    capabilities: wanted.forms ? { elicitation: { form: {} } } : {},
  },
);
if (wanted.forms) {
  // A human who accepts what the form proposes.
  client.setRequestHandler("elicitation/create", async (request) => {
    const fields = Object.entries(request.params.requestedSchema.properties);
    const content = Object.fromEntries(fields.filter(([, of]) => of.default != null).map(([name, of]) => [name, of.default]));
    return { action: "accept", content };
  });
}
await client.connect(
  wanted.stdio ? new StdioClientTransport(wanted.stdio) : new StreamableHTTPClientTransport(new URL(wanted.http)),
);

const methods = {
  tools: async () => (await client.listTools()).tools.map((tool) => tool.name),
  call: (params) => client.callTool(params),
  read: (params) => client.readResource(params),
};
const say = (message) => process.stdout.write(JSON.stringify(message) + "\n");
say({ protocol: client.getNegotiatedProtocolVersion?.() ?? null });
for await (const line of createInterface({ input: process.stdin })) {
  const { method, params } = JSON.parse(line);
  try {
    say({ result: await methods[method](params) });
  } catch (error) {
    say({ error: String(error), code: error.code });
  }
}
await client.close();
