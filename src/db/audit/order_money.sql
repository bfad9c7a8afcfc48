select o.id::text as id, o.id as subject,
    case o.status when 'paid' then 'approved'
        when 'partially_canceled' then 'partially_canceled'
        when 'confirming' then 'confirming'
        when 'awaiting_deposit' then 'awaiting_deposit' end
    is distinct from (
        select max(p.status) from payments p
        where p.order_id = o.id
            and p.status in ('confirming', 'awaiting_deposit', 'approved', 'partially_canceled')) as broken
from orders o
where {in o.id}
