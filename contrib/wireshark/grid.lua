-- A dissector for the protocol of package grid, which docs/protocol.md describes. It shows the messages
-- in all WebSockets that begin as messages do. Copy it to the
-- folder that Wireshark's Help > About > Folders calls "Personal Lua Plugins".

local grid = Proto("grid", "MinIO Grid")

local ops = {
  [1] = "Connect", [2] = "ConnectResponse", [3] = "Ping", [4] = "Pong", [5] = "ConnectMux", [6] = "MuxConnectError",
  [7] = "DisconnectClientMux", [8] = "DisconnectServerMux", [9] = "MuxClientMsg", [10] = "MuxServerMsg",
  [11] = "UnblockSrvMux", [12] = "UnblockClMux", [13] = "AckMux", [14] = "Request", [15] = "Response",
  [16] = "Disconnect", [17] = "Merged", [18] = "Piece", [19] = "AckPieces", [20] = "Facts", [21] = "AckFacts",
  [22] = "MuxServerEnd", [23] = "MuxServerHeader",
}

local f = {
  mux = ProtoField.uint64("grid.mux", "Mux ID"),
  seq = ProtoField.uint32("grid.seq", "Seq"),
  deadline = ProtoField.uint32("grid.deadline", "Deadline", base.DEC, nil, nil, "Milliseconds, or what the operation makes of it"),
  handler = ProtoField.uint8("grid.handler", "Handler"),
  op = ProtoField.uint8("grid.op", "Operation", base.DEC, ops),
  flags = ProtoField.uint8("grid.flags", "Flags", base.HEX),
  crc_flag = ProtoField.bool("grid.flags.crc", "Checksum", 8, nil, 0x01),
  eof = ProtoField.bool("grid.flags.eof", "EOF", 8, nil, 0x02),
  stateless = ProtoField.bool("grid.flags.stateless", "Stateless", 8, nil, 0x04),
  err = ProtoField.bool("grid.flags.err", "Payload is an error", 8, nil, 0x08),
  zero = ProtoField.bool("grid.flags.zero", "Payload is empty, not none", 8, nil, 0x10),
  subroute_flag = ProtoField.bool("grid.flags.subroute", "Subroute", 8, nil, 0x20),
  metadata_flag = ProtoField.bool("grid.flags.metadata", "Metadata (native)", 8, nil, 0x40),
  priority = ProtoField.bool("grid.flags.priority", "Priority (native)", 8, nil, 0x80),
  length = ProtoField.uint32("grid.payload_length", "Payload length"),
  payload = ProtoField.bytes("grid.payload", "Payload"),
  text = ProtoField.string("grid.error", "Error"),
  metadata = ProtoField.bytes("grid.metadata", "Metadata"),
  subroute = ProtoField.bytes("grid.subroute", "Subroute"),
  method = ProtoField.bool("grid.method", "Calls a method"),
  crc = ProtoField.uint32("grid.crc", "Checksum", base.HEX),
  count = ProtoField.uint32("grid.merged", "Messages inside"),
  window = ProtoField.uint32("grid.window", "Window", base.DEC, nil, nil, "Bytes or messages that the sender takes ahead"),
  grant = ProtoField.uint32("grid.grant", "Grants", base.DEC, nil, nil, "Bytes or messages"),
  piece_size = ProtoField.uint32("grid.piece.size", "Size of the message", base.DEC, nil, nil, "Bytes, in the first piece"),
  piece_left = ProtoField.uint32("grid.piece.left", "Bytes that follow"),
  piece_read = ProtoField.uint32("grid.piece.read", "Bytes of pieces that were read"),
  field = ProtoField.string("grid.field", "Field"),
  host = ProtoField.string("grid.host", "Host"),
  to = ProtoField.string("grid.to", "Wants"),
  accepted = ProtoField.bool("grid.accepted", "Accepted"),
  reason = ProtoField.string("grid.reason", "Reason"),
  features = ProtoField.uint32("grid.features", "Features", base.HEX),
  max = ProtoField.uint32("grid.max", "Largest message"),
  version = ProtoField.string("grid.version", "Version"),
}
local fields = {}
for _, field in pairs(f) do table.insert(fields, field) end
grid.fields = fields

local malformed = ProtoExpert.new("grid.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR)
grid.experts = { malformed }

local features = {
  [0] = "native", [1] = "metadata", [2] = "errors", [4] = "streams", [5] = "pieces", [6] = "windows", [7] = "priorities",
  [8] = "facts", [9] = "answers", [10] = "halves", [11] = "headers",
}

-- Readers of MessagePack return a value and the offset behind it; nil where there is none.

local function uint(b, at)
  if at >= b:len() then return nil end
  local c = b(at, 1):uint()
  local size = ({ [0xcc] = 1, [0xcd] = 2, [0xce] = 4, [0xcf] = 8 })[c]
  if c < 0x80 then return c, at + 1, b(at, 1) end
  if not size or at + 1 + size > b:len() then return nil end
  local range = b(at + 1, size)
  return size == 8 and range:uint64() or range:uint(), at + 1 + size, range
end

-- sized reads the head of a bin or a string.
local function sized(b, at)
  if at >= b:len() then return nil end
  local c = b(at, 1):uint()
  if c >= 0xa0 and c <= 0xbf then return c - 0xa0, at + 1 end
  local size = ({ [0xc4] = 1, [0xc5] = 2, [0xc6] = 4, [0xd9] = 1, [0xda] = 2, [0xdb] = 4 })[c]
  if not size or at + 1 + size > b:len() then return nil end
  return b(at + 1, size):uint(), at + 1 + size
end

local function bytes(b, at)
  local n, start = sized(b, at)
  if not n or start + n > b:len() then return nil end
  return n, start + n, start
end

-- skip returns the offset behind a value of any kind.
local function skip(b, at, depth)
  if at >= b:len() or depth > 16 then return nil end
  local c = b(at, 1):uint()
  local n, next
  if c < 0x80 or c >= 0xe0 or c == 0xc0 or c == 0xc2 or c == 0xc3 then return at + 1 end
  if c >= 0x80 and c <= 0x8f then n, next = 2 * (c - 0x80), at + 1
  elseif c >= 0x90 and c <= 0x9f then n, next = c - 0x90, at + 1
  elseif c == 0xdc or c == 0xde then
    if at + 3 > b:len() then return nil end
    n, next = b(at + 1, 2):uint() * (c == 0xde and 2 or 1), at + 3
  elseif c == 0xc7 then -- ext
    if at + 2 > b:len() then return nil end
    return at + 3 + b(at + 1, 1):uint()
  else
    local fixed = ({ [0xca] = 5, [0xcb] = 9, [0xcc] = 2, [0xcd] = 3, [0xce] = 5, [0xcf] = 9, [0xd0] = 2, [0xd1] = 3,
      [0xd2] = 5, [0xd3] = 9, [0xd4] = 3, [0xd5] = 4, [0xd6] = 6, [0xd7] = 10, [0xd8] = 18 })[c]
    if fixed then return at + fixed end
    local _, behind = bytes(b, at)
    return behind
  end
  for _ = 1, n do
    next = skip(b, next, depth + 1)
    if not next then return nil end
  end
  return next
end

-- map calls each with the names of the fields of a map, and where their values are.
local function map(b, at, each)
  if at >= b:len() then return end
  local c = b(at, 1):uint()
  if c < 0x80 or c > 0x8f then return end
  at = at + 1
  for _ = 1, c - 0x80 do
    local n, behind, start = bytes(b, at)
    if not n then return end
    local stop = skip(b, behind, 0)
    if not stop or stop > b:len() then return end
    each(b(start, n):string(), behind, stop)
    at = stop
  end
end

local texts = { Host = f.host, To = f.to, RejectedReason = f.reason, Version = f.version, Error = f.text, e = f.text }
local numbers = { Grid = f.features, Max = f.max }

-- protocolMap shows a payload that is a map of the protocol. Tokens are left out.
local function protocolMap(b, at, tree, say)
  map(b, at, function(name, from, to)
    local n, _, start = bytes(b, from)
    if texts[name] and n then
      tree:add(texts[name], b(start, n))
      if n > 0 then say(b(start, n):string()) end
    elseif numbers[name] then
      local v, _, range = uint(b, from)
      if v then
        local item = tree:add(numbers[name], range)
        if name == "Grid" then
          local names = {}
          for bit = 0, 31 do
            if features[bit] and math.floor(v / 2 ^ bit) % 2 == 1 then table.insert(names, features[bit]) end
          end
          item:append_text(" (" .. table.concat(names, ", ") .. ")")
        end
      end
    elseif name == "Accepted" then
      local accepted = b(from, 1):uint() == 0xc3
      tree:add(f.accepted, b(from, 1), accepted)
      say(accepted and "accepted" or "rejected")
    elseif name ~= "Token" then
      tree:add(f.field, b(from, to - from), name)
    end
  end)
end

local maps = { [1] = true, [2] = true, [3] = true, [4] = true, [6] = true, [20] = true }

local message

-- tail shows what is behind the array: metadata, subroute and checksum.
local function tail(b, at, flags, handler, tree)
  local stop = b:len()
  if flags % 2 == 1 then
    if stop - at < 4 then return tree:add_proto_expert_info(malformed, "no room for the checksum") end
    stop = stop - 4
    tree:add_le(f.crc, b(stop, 4))
  end
  if math.floor(flags / 0x20) % 2 == 1 then
    if stop - at < 32 then return tree:add_proto_expert_info(malformed, "no room for the subroute") end
    stop = stop - 32
    tree:add(f.subroute, b(stop, 32))
    if handler == 74 then tree:add(f.method, b(stop, 32), true) end
  end
  if math.floor(flags / 0x40) % 2 == 1 and stop > at then tree:add(f.metadata, b(at, stop - at)) end
end

-- meaning shows what an operation makes of its numbers.
local function meaning(op, flags, values, ranges, tree)
  local seq, deadline = values[2], values[3]
  if op == 5 then tree:add(f.window, ranges[2], seq)
  elseif op == 13 then tree:add(f.window, ranges[3], deadline)
  elseif op == 11 or op == 12 then tree:add(f.grant, ranges[3], math.max(deadline, 1))
  elseif op == 18 then
    if deadline > 0 then tree:add(f.piece_size, ranges[3], deadline) end
    tree:add(f.piece_left, ranges[2], seq)
  elseif op == 19 then tree:add(f.piece_read, ranges[2], seq)
  end
end

-- message shows one message, and returns what to say of it in one line; nil if it is none.
message = function(b, tree, inside)
  if b:len() < 9 or b(0, 1):uint() ~= 0x97 then return nil end
  local at, values, ranges = 1, {}, {}
  for i = 1, 6 do
    local v, next, range = uint(b, at)
    if not v then return nil end
    values[i], ranges[i], at = v, range, next
  end
  local n, behind, start = bytes(b, at)
  if not n then return nil end
  local op, flags, handler = values[5], values[6], values[4]
  local name = ops[op] or ("operation " .. op)
  local sub = tree:add(grid, b, "MinIO Grid, " .. name)
  local line = name
  local say = function(text) line = line .. " " .. text end
  sub:add(f.mux, ranges[1])
  sub:add(f.seq, ranges[2])
  sub:add(f.deadline, ranges[3])
  sub:add(f.handler, ranges[4])
  sub:add(f.op, ranges[5])
  local set = sub:add(f.flags, ranges[6])
  for _, flag in ipairs({ f.crc_flag, f.eof, f.stateless, f.err, f.zero, f.subroute_flag, f.metadata_flag, f.priority }) do
    set:add(flag, ranges[6])
  end
  if tostring(values[1]) ~= "0" then say("mux " .. tostring(values[1])) end
  if op == 14 or op == 5 then say("handler " .. handler) end
  sub:add(f.length, b(at, start - at), n)
  if n > 0 then sub:add(f.payload, b(start, n)) end
  if op == 17 then
    sub:add(f.count, ranges[2])
    if inside then
      sub:add_proto_expert_info(malformed, "a merged message in another")
      return line
    end
    local parts = {}
    at = behind
    while at < b:len() do
      local size, next, first = bytes(b, at)
      local part = size and size > 0 and message(b(first, size):tvb(), sub, true)
      if not part then
        sub:add_proto_expert_info(malformed, "a message in it is malformed")
        break
      end
      table.insert(parts, part)
      at = next
    end
    return table.concat(parts, "; ")
  end
  meaning(op, flags, values, ranges, sub)
  if maps[op] and n > 0 then protocolMap(b, start, sub, say) end
  if math.floor(flags / 8) % 2 == 1 and n > 0 then
    sub:add(f.text, b(start, n))
    say("error: " .. b(start, n):string())
  end
  tail(b, behind, flags, handler, sub)
  return line
end

function grid.dissector(tvb, pinfo, tree)
  local line = message(tvb, tree, false)
  if not line then return 0 end
  pinfo.cols.protocol = "Grid"
  pinfo.cols.info = line
  return tvb:len()
end

-- Messages are found by how they begin: WebSockets to nodes have no name of a subprotocol.
grid:register_heuristic("ws", function(tvb, pinfo, tree)
  return grid.dissector(tvb, pinfo, tree) > 0
end)
