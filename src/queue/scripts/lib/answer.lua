-- Answers.

-- Answers the producer of a job with a line: at its own key, or at the list of
-- a consumer.
local function answer_producer(name, line, ttl, reply_to)
  if reply_to ~= '' then
    local list = P .. 'replies:' .. reply_to
    call('LPUSH', list, line)
    keep(list, ttl)
    hold_list('replies:' .. reply_to)
    return
  end
  local reply = P .. 'reply:' .. name
  call('UNLINK', reply)
  call('RPUSH', reply, line)
  call('PEXPIRE', reply, ttl)
  hold('reply:' .. name, #line)
end
