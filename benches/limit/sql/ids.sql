\set i :i + 1
\set o :base + (:client_id + 1) * 100000000 + :i
\set p random(1, :products)
