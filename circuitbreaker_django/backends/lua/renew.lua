-- Take another identity, ARGV[3], unless it is no longer ARGV[2]: whoever knows the store as that one
-- knows of changes that it has lost. Its rows stay.

if store.look() and store.incarnation == ARGV[2] then
  redis.call('HSET', META, 'incarnation', ARGV[3])
  redis.call('HSET', CIRCUITS, MARK, ARGV[3])
  store.ring_now()
end
return 'done'
