-- configure: an operator's settings of the whole queue or of one tenant take
-- effect: pause, resume, drain, weights, caps.
--
-- KEYS  config or tenant:<tenant>
-- ARGV  prefix, tenant ('': the queue), then field and value of each ('' : the default again)
-- Returns 1.

local tenant = ARGV[2]
begin()
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    call('HDEL', KEYS[1], ARGV[i])
  else
    call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
  event('configured', '', (tenant ~= '' and tenant .. ' ' or '') .. ARGV[i])
end
if tenant ~= '' then
  call('ZADD', P .. 'tenants', 'NX', now(), tenant)
  place(tenant)
end
ring_bells()
return 1
