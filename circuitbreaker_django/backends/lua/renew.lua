-- Take another identity, ARGV[3], unless it is no longer ARGV[2]: whoever knows the store as that one
-- knows of changes that it has lost. Its rows stay.

if store.look() and store.incarnation == ARGV[2] then
  store.revision = math.max(now, store.revision + 1)
  redis.call('HSET', META, 'incarnation', ARGV[3])
  redis.call('HSET', META, 'revision', record.number(store.revision))
  redis.call('HSET', CIRCUITS, MARK, ARGV[3])
  redis.call('XADD', FEED, 'MAXLEN', '~', RINGS, record.number(store.revision) .. '-0', 'ring', '')
end
return 'done'
