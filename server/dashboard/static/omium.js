// The pages work without this. With it they are live, are used with keys, and draw large graphs.
import { startKeys } from "./keys.js";
import { startLive } from "./live.js";
import { startLists } from "./lists.js";
import { startGraph } from "./graph.js";
import { startPages } from "./pages.js";
import { startTheme } from "./theme.js";

startTheme();
startLists();
startGraph();
startPages();
startLive();
startKeys();
