CREATE TABLE events (
	run_id TEXT NOT NULL,
	seq BIGINT NOT NULL,
	type TEXT NOT NULL,
	at BIGINT NOT NULL,
	actor TEXT NOT NULL,
	data BYTEA NOT NULL,
	prev_hash BYTEA NOT NULL,
	hash BYTEA NOT NULL,
	PRIMARY KEY (run_id, seq)
)
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
	head BYTEA NOT NULL,
	output TEXT,
	error BYTEA,
	parent_run TEXT,
	parent_seq BIGINT,
	caller_run TEXT,
	caller_node TEXT,
	branch TEXT,
	hypothesis TEXT,
	closed TEXT,
	session TEXT,
	completed_nodes BIGINT NOT NULL,
	cost_usd FLOAT(53) NOT NULL,
	tokens BIGINT NOT NULL,
	owner TEXT NOT NULL,
	PRIMARY KEY (id)
)
 WITH (fillfactor = 50)
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
	key TEXT,
	output TEXT,
	size BIGINT NOT NULL,
	started_at BIGINT,
	ended_at BIGINT,
	detail BYTEA,
	PRIMARY KEY (run_id, node)
)
 WITH (fillfactor = 50)
-- end of statement
CREATE TABLE approvals (
	id TEXT NOT NULL,
	run_id TEXT NOT NULL,
	node TEXT,
	generation BIGINT NOT NULL,
	scope TEXT NOT NULL,
	status TEXT NOT NULL,
	question TEXT NOT NULL,
	options BYTEA NOT NULL,
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
	details BYTEA,
	arguments TEXT,
	PRIMARY KEY (id)
)
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
	error BYTEA,
	compensate TEXT,
	detail BYTEA,
	approval TEXT,
	PRIMARY KEY (id)
)
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
	micros FLOAT(53),
	shadow TEXT,
	at BIGINT NOT NULL,
	PRIMARY KEY (run_id, seq)
)
-- end of statement
CREATE INDEX decisions_by_time ON decisions (at)
-- end of statement
CREATE TABLE links (
	digest TEXT NOT NULL,
	run_id TEXT NOT NULL,
	PRIMARY KEY (digest, run_id)
)
-- end of statement
CREATE TABLE blobs (
	digest TEXT NOT NULL,
	size BIGINT NOT NULL,
	encoding TEXT NOT NULL,
	base TEXT,
	depth BIGINT NOT NULL,
	touched_at BIGINT NOT NULL,
	data BYTEA NOT NULL,
	PRIMARY KEY (digest)
)
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
	start_time FLOAT(53) NOT NULL,
	beat BIGINT NOT NULL,
	serving BYTEA NOT NULL,
	PRIMARY KEY (id)
)
-- end of statement
CREATE TABLE keys (
	scope TEXT NOT NULL,
	key TEXT NOT NULL,
	arguments TEXT NOT NULL,
	result BYTEA NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (scope, key)
)
-- end of statement
CREATE TABLE plans (
	token TEXT NOT NULL,
	caller TEXT NOT NULL,
	run_id TEXT NOT NULL,
	operation TEXT NOT NULL,
	binding TEXT NOT NULL,
	expires_at BIGINT NOT NULL,
	document BYTEA NOT NULL,
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
	document BYTEA NOT NULL,
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
	key TEXT NOT NULL,
	kind TEXT NOT NULL,
	text TEXT NOT NULL,
	tags TEXT NOT NULL,
	outcome TEXT,
	at BIGINT NOT NULL,
	words TEXT NOT NULL,
	PRIMARY KEY (project, owner, scope, key)
)
-- end of statement
CREATE TABLE pins (
	project TEXT NOT NULL,
	server TEXT NOT NULL,
	tool TEXT NOT NULL,
	digest TEXT NOT NULL,
	document BYTEA NOT NULL,
	status TEXT NOT NULL,
	approved_by TEXT,
	at BIGINT NOT NULL,
	PRIMARY KEY (project, server, tool)
)
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
	spent_usd FLOAT(53) NOT NULL,
	spent_tokens FLOAT(53) NOT NULL,
	spent_calls FLOAT(53) NOT NULL,
	held_usd FLOAT(53) NOT NULL,
	held_tokens FLOAT(53) NOT NULL,
	held_calls FLOAT(53) NOT NULL,
	extra_usd FLOAT(53) NOT NULL,
	extra_tokens FLOAT(53) NOT NULL,
	extra_calls FLOAT(53) NOT NULL,
	updated_at BIGINT NOT NULL,
	PRIMARY KEY (project, name)
)
-- end of statement
CREATE TABLE holds (
	id TEXT NOT NULL,
	name TEXT NOT NULL,
	project TEXT NOT NULL,
	worker TEXT NOT NULL,
	usd FLOAT(53) NOT NULL,
	tokens FLOAT(53) NOT NULL,
	calls FLOAT(53) NOT NULL,
	PRIMARY KEY (id, name)
)
-- end of statement
CREATE INDEX holds_by_worker ON holds (worker)
-- end of statement
CREATE TABLE snapshots (
	run_id TEXT NOT NULL,
	seq BIGINT NOT NULL,
	document BYTEA NOT NULL,
	PRIMARY KEY (run_id, seq)
)
-- end of statement
CREATE TABLE project_events (
	project TEXT NOT NULL,
	seq BIGINT NOT NULL,
	type TEXT NOT NULL,
	at BIGINT NOT NULL,
	actor TEXT NOT NULL,
	data BYTEA NOT NULL,
	prev_hash BYTEA NOT NULL,
	hash BYTEA NOT NULL,
	PRIMARY KEY (project, seq)
)
-- end of statement
CREATE TABLE graph_checkpoints (
	project TEXT NOT NULL,
	thread TEXT NOT NULL,
	ns TEXT NOT NULL,
	id TEXT NOT NULL,
	parent TEXT,
	run TEXT,
	kind TEXT NOT NULL,
	document BYTEA NOT NULL,
	metadata_kind TEXT NOT NULL,
	about BYTEA NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (project, thread, ns, id)
)
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
	value BYTEA NOT NULL,
	PRIMARY KEY (project, thread, ns, checkpoint, task, idx)
)
-- end of statement
CREATE TABLE upkeep (
	name TEXT NOT NULL,
	started_at BIGINT NOT NULL,
	ended_at BIGINT,
	outcome BYTEA,
	PRIMARY KEY (name)
)
-- end of statement
CREATE TABLE dropped_runs (
	run_id TEXT NOT NULL,
	project TEXT NOT NULL,
	seq BIGINT NOT NULL,
	head BYTEA NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (run_id)
)
-- end of statement
CREATE FUNCTION history_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'history is append-only' USING ERRCODE = 'restrict_violation'; END $$
-- end of statement
CREATE FUNCTION history_of_dropped_runs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NOT EXISTS (SELECT 1 FROM dropped_runs d WHERE d.run_id = OLD.run_id) THEN RAISE EXCEPTION 'history is append-only' USING ERRCODE = 'restrict_violation'; END IF; RETURN OLD; END $$
-- end of statement
CREATE TRIGGER events_no_update BEFORE UPDATE ON events FOR EACH ROW EXECUTE FUNCTION history_is_append_only()
-- end of statement
CREATE TRIGGER events_no_delete BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION history_of_dropped_runs()
-- end of statement
CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION history_is_append_only()
-- end of statement
CREATE TRIGGER project_events_no_update BEFORE UPDATE ON project_events FOR EACH ROW EXECUTE FUNCTION history_is_append_only()
-- end of statement
CREATE TRIGGER project_events_no_delete BEFORE DELETE ON project_events FOR EACH ROW EXECUTE FUNCTION history_is_append_only()
-- end of statement
CREATE TRIGGER project_events_no_truncate BEFORE TRUNCATE ON project_events FOR EACH STATEMENT EXECUTE FUNCTION history_is_append_only()
-- end of statement
