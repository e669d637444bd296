-- erase: jobs that have ended are forgotten: documents, results, dead letters,
-- histories and records. What is left of a job whose record is gone goes too.
--
-- KEYS  –
-- ARGV  prefix, then names, at most 100; of a single one the ready lists are searched too
-- Returns how many {records, documents, results, dead letters} went, then the names of
-- living jobs, which were not touched.

local records, documents, results, dead, alive = 0, 0, 0, 0, {}

begin()
for i = 2, math.min(#ARGV, 101) do
  local name = ARGV[i]
  local job, doc = P .. 'job:' .. name, P .. 'doc:' .. name
  local state = call('HGET', job, 'state')
  if living(state) then
    alive[#alive + 1] = name
  else
    records = records + call('EXISTS', job)
    documents = documents + call('EXISTS', doc)
    results = results + call('EXISTS', P .. 'reply:' .. name, P .. 'pdf:' .. name)
    if forget_dead(name) then
      dead = dead + 1
    end
    call('UNLINK', job, doc, P .. 'history:' .. name, P .. 'reply:' .. name, P .. 'pdf:' .. name,
      P .. 'result:' .. name)
    hold('reply:' .. name, 0)
    hold('pdf:' .. name, 0)
    for _, set in ipairs({ 'leased', 'delayed', 'deadlines' }) do
      call('ZREM', P .. set, name)
    end
    if #ARGV == 2 then
      -- The name of a cancelled job stays in its ready list until somebody skips it.
      for _, priority in ipairs({ 'interactive', 'bulk' }) do
        call('LREM', P .. 'ready:' .. priority .. ':' .. tenant_of(name), 0, name)
      end
      place(tenant_of(name))
    end
  end
end
return { records, documents, results, dead, alive }
