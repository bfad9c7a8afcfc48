-- Takes one request from each bucket of KEYS, or from none if one has no room.
-- ARGV: requests and price (the window in microseconds) of each bucket, in turn.
-- Answers 1 or 0 and the debt of each bucket afterwards. The clock is the server's: processes may disagree about theirs.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local admitted, debts = 1, {}
for i, key in ipairs(KEYS) do
    local requests, price = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
    local debt = 0
    local kept = redis.call('GET', key)
    if kept then
        local before, at = string.match(kept, '^(%d+) (%d+)$')
        -- What cannot be read, or comes from a clock that was ahead, counts as a fresh bucket.
        if before and tonumber(at) <= now then
            debt = math.max(tonumber(before) - math.min(now - tonumber(at), price) * requests, 0)
        end
    end
    if debt + price > requests * price then
        admitted = 0
    end
    debts[i] = debt
end
if admitted == 1 then
    for i, key in ipairs(KEYS) do
        local requests, price = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
        debts[i] = debts[i] + price
        local life_ms = math.ceil(debts[i] / requests / 1000)
        redis.call('SET', key, string.format('%.0f %.0f', debts[i], now), 'PX', string.format('%.0f', life_ms))
    end
end
return { admitted, unpack(debts) }
