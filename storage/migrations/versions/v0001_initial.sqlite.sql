CREATE TABLE events (
	run_id TEXT NOT NULL,
	seq BIGINT NOT NULL,
	type TEXT NOT NULL,
	at BIGINT NOT NULL,
	actor TEXT NOT NULL,
	data BLOB NOT NULL,
	prev_hash BLOB NOT NULL,
	hash BLOB NOT NULL,
	PRIMARY KEY (run_id, seq)
)
 WITHOUT ROWID
-- end of statement
CREATE TABLE runs (
	id TEXT NOT NULL,
	project TEXT NOT NULL,
	workflow TEXT NOT NULL,
	title TEXT NOT NULL,
	definition TEXT NOT NULL,
	inputs TEXT NOT NULL,
	status TEXT NOT NULL,
	reason TEXT,
	priority BIGINT NOT NULL,
	generation BIGINT NOT NULL,
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	started_at BIGINT,
	ended_at BIGINT,
	seq BIGINT NOT NULL,
	head BLOB NOT NULL,
	output TEXT,
	error BLOB,
	parent_run TEXT,
	parent_seq BIGINT,
	caller_run TEXT,
	caller_node TEXT,
	branch TEXT,
	hypothesis TEXT,
	closed TEXT,
	session TEXT,
	completed_nodes BIGINT NOT NULL,
	cost_usd FLOAT NOT NULL,
	tokens BIGINT NOT NULL,
	owner TEXT NOT NULL,
	PRIMARY KEY (id)
)
 WITHOUT ROWID
-- end of statement
CREATE INDEX runs_by_status ON runs (project, status, id)
-- end of statement
CREATE INDEX runs_by_owner ON runs (project, owner, id)
-- end of statement
CREATE INDEX runs_by_project ON runs (project, id)
-- end of statement
CREATE INDEX runs_by_workflow ON runs (project, workflow, id)
-- end of statement
CREATE INDEX runs_by_caller ON runs (caller_run) WHERE caller_run IS NOT NULL
-- end of statement
CREATE INDEX runs_by_session ON runs (session) WHERE session IS NOT NULL
-- end of statement
CREATE INDEX runs_by_parent ON runs (parent_run) WHERE parent_run IS NOT NULL
-- end of statement
CREATE TABLE nodes (
	run_id TEXT NOT NULL,
	node TEXT NOT NULL,
	status TEXT NOT NULL,
	generation BIGINT NOT NULL,
	attempt BIGINT NOT NULL,
	seq BIGINT NOT NULL,
	"key" TEXT,
	output TEXT,
	size BIGINT NOT NULL,
	started_at BIGINT,
	ended_at BIGINT,
	detail BLOB,
	PRIMARY KEY (run_id, node)
)
 WITHOUT ROWID
-- end of statement
CREATE TABLE approvals (
	id TEXT NOT NULL,
	run_id TEXT NOT NULL,
	node TEXT,
	generation BIGINT NOT NULL,
	scope TEXT NOT NULL,
	status TEXT NOT NULL,
	question TEXT NOT NULL,
	options BLOB NOT NULL,
	min_assurance TEXT NOT NULL,
	requested_at BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	decision TEXT,
	decided_by TEXT,
	assurance TEXT,
	feedback TEXT,
	decided_at BIGINT,
	consumed INTEGER NOT NULL,
	binding TEXT,
	details BLOB,
	arguments TEXT,
	PRIMARY KEY (id)
)
 WITHOUT ROWID
-- end of statement
CREATE INDEX approvals_by_run ON approvals (run_id)
-- end of statement
CREATE INDEX approvals_pending ON approvals (requested_at) WHERE status = 'pending'
-- end of statement
CREATE TABLE effects (
	id TEXT NOT NULL,
	run_id TEXT NOT NULL,
	node TEXT NOT NULL,
	generation BIGINT NOT NULL,
	attempt BIGINT NOT NULL,
	call TEXT NOT NULL,
	kind TEXT NOT NULL,
	on_unknown TEXT NOT NULL,
	outcome TEXT,
	result TEXT,
	error BLOB,
	compensate TEXT,
	detail BLOB,
	approval TEXT,
	PRIMARY KEY (id)
)
 WITHOUT ROWID
-- end of statement
CREATE INDEX effects_by_run ON effects (run_id)
-- end of statement
CREATE TABLE labels (
	run_id TEXT NOT NULL,
	seq BIGINT NOT NULL,
	label TEXT NOT NULL,
	at BIGINT NOT NULL,
	note TEXT,
	tree TEXT,
	created_at BIGINT NOT NULL,
	actor TEXT NOT NULL,
	PRIMARY KEY (run_id, seq)
)
 WITHOUT ROWID
-- end of statement
CREATE TABLE decisions (
	run_id TEXT NOT NULL,
	seq BIGINT NOT NULL,
	node TEXT NOT NULL,
	call TEXT NOT NULL,
	action TEXT NOT NULL,
	server TEXT,
	tool TEXT NOT NULL,
	agent TEXT,
	effect TEXT NOT NULL,
	rule TEXT,
	reason TEXT,
	input TEXT NOT NULL,
	version TEXT NOT NULL,
	micros FLOAT,
	shadow TEXT,
	at BIGINT NOT NULL,
	PRIMARY KEY (run_id, seq)
)
 WITHOUT ROWID
-- end of statement
CREATE INDEX decisions_by_time ON decisions (at)
-- end of statement
CREATE TABLE links (
	digest TEXT NOT NULL,
	run_id TEXT NOT NULL,
	PRIMARY KEY (digest, run_id)
)
 WITHOUT ROWID
-- end of statement
CREATE TABLE blobs (
	digest TEXT NOT NULL,
	size BIGINT NOT NULL,
	encoding TEXT NOT NULL,
	base TEXT,
	depth BIGINT NOT NULL,
	touched_at BIGINT NOT NULL,
	data BLOB NOT NULL,
	PRIMARY KEY (digest)
)
 WITHOUT ROWID
-- end of statement
CREATE INDEX blobs_by_base ON blobs (base) WHERE base IS NOT NULL
-- end of statement
CREATE TABLE claims (
	run_id TEXT NOT NULL,
	project TEXT NOT NULL,
	priority BIGINT NOT NULL,
	worker TEXT,
	fence BIGINT NOT NULL,
	wake_at BIGINT,
	PRIMARY KEY (run_id)
)
-- end of statement
CREATE INDEX claims_due ON claims (project, wake_at) WHERE worker IS NULL
-- end of statement
CREATE INDEX claims_by_worker ON claims (worker) WHERE worker IS NOT NULL
-- end of statement
CREATE TABLE workers (
	id TEXT NOT NULL,
	host TEXT NOT NULL,
	boot TEXT NOT NULL,
	pid BIGINT NOT NULL,
	start_time FLOAT NOT NULL,
	beat BIGINT NOT NULL,
	serving BLOB NOT NULL,
	PRIMARY KEY (id)
)
-- end of statement
CREATE TABLE keys (
	scope TEXT NOT NULL,
	"key" TEXT NOT NULL,
	arguments TEXT NOT NULL,
	result BLOB NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (scope, "key")
)
 WITHOUT ROWID
-- end of statement
CREATE TABLE plans (
	token TEXT NOT NULL,
	caller TEXT NOT NULL,
	run_id TEXT NOT NULL,
	operation TEXT NOT NULL,
	binding TEXT NOT NULL,
	expires_at BIGINT NOT NULL,
	document BLOB NOT NULL,
	PRIMARY KEY (token)
)
-- end of statement
CREATE TABLE tasks (
	id TEXT NOT NULL,
	project TEXT NOT NULL,
	principal TEXT NOT NULL,
	run_id TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	expires_at BIGINT,
	version BIGINT NOT NULL,
	document BLOB NOT NULL,
	PRIMARY KEY (id)
)
-- end of statement
CREATE TABLE tokens (
	id TEXT NOT NULL,
	digest TEXT NOT NULL,
	project TEXT NOT NULL,
	principal TEXT NOT NULL,
	role TEXT NOT NULL,
	sees TEXT NOT NULL,
	note TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	expires_at BIGINT,
	revoked_at BIGINT,
	PRIMARY KEY (id)
)
-- end of statement
CREATE UNIQUE INDEX tokens_by_digest ON tokens (digest)
-- end of statement
CREATE TABLE memories (
	project TEXT NOT NULL,
	owner TEXT NOT NULL,
	scope TEXT NOT NULL,
	"key" TEXT NOT NULL,
	kind TEXT NOT NULL,
	text TEXT NOT NULL,
	tags TEXT NOT NULL,
	outcome TEXT,
	at BIGINT NOT NULL,
	words TEXT NOT NULL,
	PRIMARY KEY (project, owner, scope, "key")
)
-- end of statement
CREATE TABLE pins (
	project TEXT NOT NULL,
	server TEXT NOT NULL,
	tool TEXT NOT NULL,
	digest TEXT NOT NULL,
	document BLOB NOT NULL,
	status TEXT NOT NULL,
	approved_by TEXT,
	at BIGINT NOT NULL,
	PRIMARY KEY (project, server, tool)
)
 WITHOUT ROWID
-- end of statement
CREATE TABLE endpoints (
	project TEXT NOT NULL,
	endpoint TEXT NOT NULL,
	since BIGINT NOT NULL,
	PRIMARY KEY (project, endpoint)
)
-- end of statement
CREATE TABLE announced (
	run_id TEXT NOT NULL,
	endpoint TEXT NOT NULL,
	seq BIGINT NOT NULL,
	PRIMARY KEY (run_id, endpoint)
)
 WITHOUT ROWID
-- end of statement
CREATE TABLE notices (
	id TEXT NOT NULL,
	project TEXT NOT NULL,
	endpoint TEXT NOT NULL,
	run_id TEXT NOT NULL,
	seq BIGINT NOT NULL,
	type TEXT NOT NULL,
	status TEXT NOT NULL,
	attempts BIGINT NOT NULL,
	due_at BIGINT NOT NULL,
	created_at BIGINT NOT NULL,
	ended_at BIGINT,
	problem TEXT,
	PRIMARY KEY (id)
)
-- end of statement
CREATE INDEX notices_due ON notices (project, endpoint, due_at) WHERE status = 'waiting'
-- end of statement
CREATE UNIQUE INDEX notices_once ON notices (run_id, seq, endpoint)
-- end of statement
CREATE TABLE leases (
	name TEXT NOT NULL,
	worker TEXT NOT NULL,
	holder TEXT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (name)
)
-- end of statement
CREATE TABLE budgets (
	project TEXT NOT NULL,
	name TEXT NOT NULL,
	spent_usd FLOAT NOT NULL,
	spent_tokens FLOAT NOT NULL,
	spent_calls FLOAT NOT NULL,
	held_usd FLOAT NOT NULL,
	held_tokens FLOAT NOT NULL,
	held_calls FLOAT NOT NULL,
	extra_usd FLOAT NOT NULL,
	extra_tokens FLOAT NOT NULL,
	extra_calls FLOAT NOT NULL,
	updated_at BIGINT NOT NULL,
	PRIMARY KEY (project, name)
)
-- end of statement
CREATE TABLE holds (
	id TEXT NOT NULL,
	name TEXT NOT NULL,
	project TEXT NOT NULL,
	worker TEXT NOT NULL,
	usd FLOAT NOT NULL,
	tokens FLOAT NOT NULL,
	calls FLOAT NOT NULL,
	PRIMARY KEY (id, name)
)
-- end of statement
CREATE INDEX holds_by_worker ON holds (worker)
-- end of statement
CREATE TABLE snapshots (
	run_id TEXT NOT NULL,
	seq BIGINT NOT NULL,
	document BLOB NOT NULL,
	PRIMARY KEY (run_id, seq)
)
-- end of statement
CREATE TABLE project_events (
	project TEXT NOT NULL,
	seq BIGINT NOT NULL,
	type TEXT NOT NULL,
	at BIGINT NOT NULL,
	actor TEXT NOT NULL,
	data BLOB NOT NULL,
	prev_hash BLOB NOT NULL,
	hash BLOB NOT NULL,
	PRIMARY KEY (project, seq)
)
 WITHOUT ROWID
-- end of statement
CREATE TABLE graph_checkpoints (
	project TEXT NOT NULL,
	thread TEXT NOT NULL,
	ns TEXT NOT NULL,
	id TEXT NOT NULL,
	parent TEXT,
	run TEXT,
	kind TEXT NOT NULL,
	document BLOB NOT NULL,
	metadata_kind TEXT NOT NULL,
	about BLOB NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (project, thread, ns, id)
)
 WITHOUT ROWID
-- end of statement
CREATE INDEX graph_checkpoints_by_run ON graph_checkpoints (project, run) WHERE run IS NOT NULL
-- end of statement
CREATE TABLE graph_writes (
	project TEXT NOT NULL,
	thread TEXT NOT NULL,
	ns TEXT NOT NULL,
	checkpoint TEXT NOT NULL,
	task TEXT NOT NULL,
	idx BIGINT NOT NULL,
	path TEXT NOT NULL,
	channel TEXT NOT NULL,
	kind TEXT NOT NULL,
	value BLOB NOT NULL,
	PRIMARY KEY (project, thread, ns, checkpoint, task, idx)
)
 WITHOUT ROWID
-- end of statement
CREATE TABLE upkeep (
	name TEXT NOT NULL,
	started_at BIGINT NOT NULL,
	ended_at BIGINT,
	outcome BLOB,
	PRIMARY KEY (name)
)
-- end of statement
CREATE TABLE dropped_runs (
	run_id TEXT NOT NULL,
	project TEXT NOT NULL,
	seq BIGINT NOT NULL,
	head BLOB NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (run_id)
)
-- end of statement
CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'history is append-only'); END
-- end of statement
CREATE TRIGGER events_no_delete BEFORE DELETE ON events WHEN NOT EXISTS (SELECT 1 FROM dropped_runs d WHERE d.run_id = OLD.run_id) BEGIN SELECT RAISE(ABORT, 'history is append-only'); END
-- end of statement
CREATE TRIGGER project_events_no_update BEFORE UPDATE ON project_events BEGIN SELECT RAISE(ABORT, 'history is append-only'); END
-- end of statement
CREATE TRIGGER project_events_no_delete BEFORE DELETE ON project_events BEGIN SELECT RAISE(ABORT, 'history is append-only'); END
-- end of statement
