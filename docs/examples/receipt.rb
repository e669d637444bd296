# A receipt through Tillroll with redis-rb.
#
#     ruby receipt.rb redis://127.0.0.1:6379

require "json"
require "redis"
require "securerandom"

P = "tillroll:{receipts}:"
WAIT = 30 # seconds

# redis-rb adds a blocking command's wait to its own read timeout.
redis = Redis.new(url: ARGV[0])

# An id of your own lets you wait for the reply, and push again safely.
job = { id: "r-#{SecureRandom.uuid}", tenant: "cafe", options: { paper: "80mm" } }
html = "<meta charset=utf-8><h1>Receipt</h1><p>2 × coffee <b>€ 7.00</b></p>"
redis.lpush("#{P}in", "#{JSON.generate(job)}\n#{html}")

_, element = redis.blpop("#{P}reply:#{job[:tenant]}/#{job[:id]}", timeout: WAIT)
abort "no reply within #{WAIT} s; is a worker running?" unless element

# Bytes, not text: a PDF is no valid UTF-8.
line, pdf = element.b.split("\n", 2)
reply = JSON.parse(line.force_encoding("UTF-8"))
abort line unless reply["status"] == "done" && pdf.start_with?("%PDF-")
puts "#{reply["pages"]} page, #{pdf.bytesize} bytes"
