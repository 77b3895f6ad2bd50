// Standard input as a number of tokens of OpenAI's o200k_base. Its argument is the directory of the packages.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(process.argv[2] + "/");
const { countTokens } = require("gpt-tokenizer/encoding/o200k_base");
process.stdout.write(String(countTokens(readFileSync(0, "utf8"))));
