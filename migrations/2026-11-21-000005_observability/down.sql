drop schema observability cascade;
drop schema observability_owner cascade;
