with happened as (
    select order_id, aggregate_id, kind, (occurred_at at time zone 'UTC')::date as day
    from events
    where id > $1 and id <= $2 and kind in ('OrderPaid', 'OrderDepositReversed', 'CancellationDone')
),
returned as (
    select h.day, o.currency, c.id, c.moved_amount
    from happened h
    join cancellations c on c.id = h.aggregate_id
    join orders o on o.id = c.order_id
    where h.kind = 'CancellationDone' and c.moved_amount > 0
        -- What was canceled in the PG's console was canceled of money that an order kept.
        and (c.origin = 'external' or exists (
            select 1 from events e
            where e.order_id = c.order_id and e.aggregate = 'payment' and e.aggregate_id = c.payment_id
                and e.from_status in ('approved', 'partially_canceled')
                and e.detail ->> 'cancellation' = 'can_' || replace(c.id::text, '-', '')))
),
given_back as (
    select r.id, r.day, r.currency, i.product_id, u.quantity::bigint as units, u.quantity * i.unit_price as amount
    from returned r
    join cancellation_items u on u.cancellation_id = r.id
    join order_items i on i.order_id = u.order_id and i.line = u.line
),
moves as (
    select h.day, o.currency, i.product_id,
        case h.kind when 'OrderPaid' then i.quantity::bigint else 0 end as sold_units,
        case h.kind when 'OrderPaid' then i.quantity * i.unit_price else 0 end as sold_amount,
        case h.kind when 'OrderPaid' then 0 else i.quantity::bigint end as canceled_units,
        case h.kind when 'OrderPaid' then 0 else i.quantity * i.unit_price end as canceled_amount
    from happened h
    join orders o on o.id = h.order_id
    join order_items i on i.order_id = h.order_id
    where h.kind in ('OrderPaid', 'OrderDepositReversed')
    union all
    select day, currency, product_id, 0, 0, units, amount from given_back
    union all
    select r.day, r.currency, '00000000-0000-0000-0000-000000000000', 0, 0, 0,
        r.moved_amount - coalesce((select sum(g.amount) from given_back g where g.id = r.id), 0)::bigint
    from returned r
)
insert into sales as s (day, currency, product_id, sold_units, sold_amount, canceled_units, canceled_amount)
select day, currency, product_id, sum(sold_units), sum(sold_amount), sum(canceled_units), sum(canceled_amount)
from moves
where sold_units <> 0 or canceled_units <> 0 or canceled_amount <> 0
group by day, currency, product_id
on conflict (day, currency, product_id) do update set
    sold_units = s.sold_units + excluded.sold_units,
    sold_amount = s.sold_amount + excluded.sold_amount,
    canceled_units = s.canceled_units + excluded.canceled_units,
    canceled_amount = s.canceled_amount + excluded.canceled_amount
